"""The commands that the demo's steps are, word by word."""

from __future__ import annotations

import os
from collections.abc import Mapping

from nnunetv2_stitch.demo.data import PARTIES
from nnunetv2_stitch.demo.settings import CONFIGURATION, FOLD, PLANS, DemoSettings

PARTNER_ZIP, EVALUATION = "B.zip", "evaluation"
POSITIONS = "blocks"  # a third of the positions in a third of the time
PLAIN_PLANS = "nnUNetPlainStitchPlans"  # beside the recommended model, which keeps the usual name
IDS = {key: str(party.dataset_id) for key, party in PARTIES.items()}


def plan(key: str) -> list[str]:
    return ["nnUNetv2_plan_and_preprocess", "-d", IDS[key], "-c", CONFIGURATION]


def preprocess(key: str) -> list[str]:
    return ["nnUNetv2_preprocess", "-d", IDS[key], "-plans_name", PLANS, "-c", CONFIGURATION]


def train(key: str, settings: DemoSettings) -> list[str]:
    return ["nnUNetv2_train", IDS[key], CONFIGURATION, str(FOLD), "-tr", settings.trainer]


def export(key: str, folder: str) -> list[str]:
    return ["nnUNetv2_export_party", "-d", IDS[key], "-o", os.path.join(folder, PARTNER_ZIP)]


def info(folder: str) -> list[str]:
    return ["nnUNetv2_stitch_info", IDS["A"], "-m_b", os.path.join(folder, PARTNER_ZIP)]


def adapt(folder: str, settings: DemoSettings) -> list[str]:
    return ["nnUNetv2_adapt_party", IDS["A"], "-m_b", os.path.join(folder, PARTNER_ZIP),
            "-epochs", str(settings.adapt_epochs), "-iterations", str(settings.adapt_iterations), *_seed(settings)]


def stitch(folder: str, settings: DemoSettings) -> list[str]:
    return ["nnUNetv2_train_stitch", IDS["A"], "-m_b", os.path.join(folder, PARTNER_ZIP), "-fit", "direct",
            *_stitches(settings), "-o_p", PLAIN_PLANS]


def gate(adapted: str, settings: DemoSettings) -> list[str]:
    """`adapted`: model folder of the adapted partner."""
    return ["nnUNetv2_train_stitch", IDS["A"], "-m_b", adapted, "-fit", "direct", *_stitches(settings), "-gate", "on"]


def evaluate(folder: str, models: Mapping[str, str]) -> list[str]:
    """`models`: name -> model folder, and `@mode` where a stitched one is to answer otherwise."""
    return ["nnUNetv2_evaluate_stitched", "-models", *(f"{name}={path}" for name, path in models.items()),
            "-datasets", *(f"{key}={os.path.join(folder, 'nnUNet_raw', p.dataset)}" for key, p in PARTIES.items()),
            "-o", os.path.join(folder, EVALUATION)]


def _stitches(settings: DemoSettings) -> list[str]:
    return ["-positions", POSITIONS, "-iterations", str(settings.stitch_iterations), *_seed(settings)]


def _seed(settings: DemoSettings) -> list[str]:
    return [] if settings.seed == DemoSettings.seed else ["-seed", str(settings.seed)]
