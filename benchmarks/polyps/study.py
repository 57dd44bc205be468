"""What should a hospital do with another's model? Every way, on the patients of five hospitals.

    python benchmarks/polyps/study.py WORK -host A -partner B -seed 1 [-rows ...] [-fit direct] [-curves]

WORK as `parents.py` leaves it, with the models of one seed: A, A_longer, B, AB and B_on_A for host A and partner B. The
stitches are trained here, every row predicts the test cases of the host, of the partners and of the hospitals that
trained nothing (without mirroring), and `study.json` and `study.md` are written beside the predictions: mean Dice, 95 %
bootstrap intervals, and the paired difference to "A alone". What is there is kept. Several partners: `-partner B C`;
rows of adapted partners and pooled data are left out then. `-curves`: no rows, but Dice over position and over the
number of active stitches of the model that was stitched before, in `curves.json`.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from measures import as_lists, dice_of, markdown, summary
from parents import CONFIGURATION, FOLD, HOSPITALS, TRAININGS, checkpoint, dataset_of, environment, model_folder

sys.path.append(str(Path(__file__).resolve().parents[1]))  # benchmarks/curves.py
RAW_TEST = ("imagesTs", "labelsTs")
ALPHAS = (0.0, 0.25, 0.5, 0.75, 1.0, 1.15, 1.3)
HALFWAY = 0.5  # of the adapted partner under a gate: what Wortsman et al. recommend where nothing tells a better one
SHORT = {"direct": "nnUNetStitchDirectPlans", "double_batched": "nnUNetStitchPlans"}


class Study:
    """One host, its partners, one seed."""

    def __init__(self, work: Path, host: str, partners: str, seed: int, fit: str, epochs: int, iterations: int):
        self.work, self.host, self.partners, self.seed, self.fit = work, host, partners, seed, fit
        self.partner = partners[0]
        self.epochs, self.iterations = epochs, iterations
        self.results = work / f"seed_{seed}"
        self.folder = work / f"study_{host}{partners}_{seed}"
        self.device = torch.device("cpu")
        unseen = [h for h in HOSPITALS if h not in host + partners]
        self.sets = {"own": host, "partner": self.partner, **{f"partner {p}": p for p in partners[1:]},
                     **{f"unseen {h}": h for h in unseen}}
        self.notes: dict[str, str] = {}

    def model(self, name: str) -> str:
        return str(model_folder(self.work, self.seed, name))

    # -- rows ------------------------------------------------------------------------------------------------------

    def rows(self) -> dict[str, Callable]:
        h, p = self.host, self.partner
        alone = {
            "A alone": lambda: self.plain(self.model(h)),
            **({"A longer": lambda: self.plain(self.model(f"{h}_longer"))}
               if f"{h}_longer" in TRAININGS and checkpoint(self.work, self.seed, f"{h}_longer").is_file() else {}),
            "B alone": lambda: self.plain(self.model(p)),
            **{f"{c} alone": lambda c=c: self.plain(self.model(c)) for c in self.partners[1:]}}
        stitched = {
            "plain ensemble": lambda: self.settings(dict),
            "weighted, retained": lambda: self.settings(self.retained_share),
            f"stitched ({self.fit}), rule 2": lambda: self.deployed("2"),
            f"stitched ({self.fit}), retained": lambda: self.deployed("retain"),
            "gated": lambda: self.deployed("retain", gate=True)}
        return alone | stitched if len(self.partners) > 1 else {
            **alone, **stitched,
            "gated, adapted": lambda: self.deployed("retain", gate=True, adapted=True),
            "student of gated, adapted": self.student,
            "stitched, adapted": lambda: self.deployed("retain", adapted=True),
            "adapted, half-way": lambda: self.adapted(HALFWAY),
            **({"federated": lambda: self.plain(self.model("federated_AB"))}
               if checkpoint(self.work, self.seed, "federated_AB").is_file() else {}),
            "adapted": lambda: self.adapted(None), "adapted only": lambda: self.adapted(1.0),
            "pooled data": lambda: self.plain(self.model(h + p if h + p in ("AB", "CA") else p + h)),
        }

    def plain(self, folder: str):
        from nnunetv2_stitch.inference.stock_predictor import stock_predictor
        from nnunetv2_stitch.parties.model_folder import read_model_folder
        return stock_predictor(read_model_folder(folder), [FOLD], self.device, tta=False)

    def stitch(self, rule: str, gate: bool = False, adapted: bool = False) -> str:
        """The folder of a stitched model, trained once for each kind of partner and deployed as asked for."""
        from nnunetv2_stitch.exchange.parents import Partner
        from nnunetv2_stitch.pipeline import train_stitch
        kind = "Adapted" * adapted + self.partners[1:]
        plans_name = SHORT[self.fit].replace("Plans", f"{kind}Plans")
        first = not any(self.results.glob(f"{dataset_of(self.host)}/*__{plans_name}__*/fold_{FOLD}/sweep.json"))
        partner = self.adapted_folder() if adapted else self.exported(self.partner)
        result = train_stitch(
            model_a=self.model(self.host), model_b=partner, device=self.device,
            more=[Partner(model=self.exported(p)) for p in self.partners[1:]], progress=False,
            only_selection=not first,
            say=lambda line: print(f"   {line}", flush=True), configuration=CONFIGURATION, folds=[FOLD], fit=self.fit,
            positions="blocks", plans_name=plans_name, seed=self.seed, rule=rule, gate=gate, iterations=self.iterations,
            epochs=self.epochs if self.fit == "double_batched" else None)
        said = f"rule {rule}{', gate' * gate}{', adapted partner' * adapted}"
        self.notes[said] = "; ".join(result.remarks)
        print(f"   {said}: {self.notes[said]}")
        return result.model_folder

    def student(self):
        """One network of the host, taught for as long as "A longer" was trained on."""
        from parents import MORE

        from nnunetv2_stitch.distillation import distill
        result = distill(self.stitch("retain", gate=True, adapted=True), dataset_of(self.host), device=self.device,
                         folds=[FOLD], epochs=MORE // 100, iterations=100, seed=self.seed, continue_training=True,
                         plans_name=SHORT[self.fit].replace("Plans", "StudentPlans"), progress=False, validate=False,
                         say=lambda line: print(f"   {line}", flush=True))
        return self.plain(result.model_folder)

    def exported(self, party: str) -> str:
        """The party's zip, with its signature."""
        path = self.folder / f"{party}.zip"
        if not path.is_file():
            from nnunetv2_stitch.exchange.export import export_party
            from nnunetv2_stitch.parties.model_folder import read_model_folder
            self.folder.mkdir(parents=True, exist_ok=True)
            export_party(read_model_folder(self.model(party)), str(path))
        return str(path)

    def adapted_folder(self) -> str:
        """The adapted partner half-way as a model folder, with the signature that its partner sent."""
        import shutil

        from nnunetv2_stitch.exchange.parents import read_party
        from nnunetv2_stitch.gating.signature import SIGNATURE_FILE
        from nnunetv2_stitch.training.line import between
        folder = Path(self.model(f"{self.partner}_on_{self.host}").replace(f"From{self.partner}Plans", "AdaptedPlans"))
        start, end = self.ends()
        if not folder.is_dir():
            shutil.copytree(self.model(f"{self.partner}_on_{self.host}"), folder)
            path = folder / f"fold_{FOLD}" / "checkpoint_final.pth"
            kept = torch.load(path, weights_only=False)
            torch.save({**kept, "network_weights": between(start, end, HALFWAY)}, path)
            sent = Path(read_party(self.exported(self.partner)).path) / f"fold_{FOLD}" / SIGNATURE_FILE
            shutil.copyfile(sent, folder / f"fold_{FOLD}" / SIGNATURE_FILE)
        return str(folder)

    def deployed(self, rule: str, gate: bool = False, adapted: bool = False):
        from nnunetv2_stitch.inference.predictor import StitchedPredictor
        folder = self.stitch(rule, gate, adapted)
        predictor = StitchedPredictor(device=self.device, use_mirroring=False, allow_tqdm=False,
                                      perform_everything_on_device=False)
        predictor.initialize_from_trained_model_folder(folder, (FOLD,))
        return predictor

    def settings(self, setting: Callable[[], dict]):
        from nnunetv2_stitch.inference.predictor import StitchedPredictor
        from nnunetv2_stitch.stitching.setting import Setting
        folder = self.stitch("2")
        predictor = StitchedPredictor(device=self.device, use_mirroring=False, allow_tqdm=False,
                                      perform_everything_on_device=False)
        predictor.initialize_from_stitches(folder, {FOLD: Setting(**setting())})
        return predictor

    def retained_share(self) -> dict:
        """The smallest share of the host in a plain ensemble that its validation cases cannot tell from the best, nor
        from the host alone."""
        from nnunetv2_stitch.baselines.stitched import SHARES, count_shares
        from nnunetv2_stitch.selection.dice import dice_of_counts, mean_over_labels
        from nnunetv2_stitch.selection.retention import retained
        (_, counts), = count_shares(self.stitch("2"), CONFIGURATION, [FOLD], str(self.results),
                                    str(self.work / "preprocessed"), self.device)
        counts = np.array(counts)  # (shares, cases, labels, 3)
        dice = mean_over_labels(dice_of_counts(counts))
        dice[~counts[..., [0, 2]].any((2, 3))] = np.nan  # no reference, so nothing tells two shares apart
        why = retained(dice, dice[-1])
        share = SHARES[why.index]
        self.notes["weighted"] = f"host's share {share}, {why.reason}"
        print(f"   {self.notes['weighted']}")
        return {"host_share": share}

    def adapted(self, alpha: float | None):
        """A point of the line between the partner's model and the same trained on with the host's images."""
        from nnunetv2_stitch.training.line import between
        start, end = self.ends()
        if alpha is None:
            alpha = self.retained_alpha(start, end)
        predictor = self.plain(self.model(f"{self.partner}_on_{self.host}"))
        predictor.network.load_state_dict(between(start, end, alpha))
        predictor.list_of_parameters = [{k: v.clone() for k, v in predictor.network.state_dict().items()}]
        self.notes["adapted"] = f"alpha {alpha}"
        return predictor

    def ends(self) -> tuple[dict, dict]:
        """Weights at alpha 0 and 1."""
        from nnunetv2_stitch.parties.checkpoint import load_checkpoint, network_weights
        return tuple(network_weights(load_checkpoint(f"{self.model(n)}/fold_{FOLD}/checkpoint_final.pth"))
                     for n in (self.partner, f"{self.partner}_on_{self.host}"))

    def retained_alpha(self, start, end) -> float:
        from nnunetv2_stitch.parties.model_folder import read_model_folder
        from nnunetv2_stitch.selection.retention import retained
        from nnunetv2_stitch.selection.scored_cases import ScoredCases
        from nnunetv2_stitch.training.line import case_dice, own_point
        from nnunetv2_stitch.training.site import Site
        host = read_model_folder(self.model(self.host))
        site = Site(str(self.work / "preprocessed" / dataset_of(self.host)), dataset_of(self.host), CONFIGURATION, FOLD,
                    host.plans, host.dataset_json)
        points = [*((start, end, a) for a in ALPHAS), own_point(host, FOLD)]
        dice = case_dice(site, points, self.seed, ScoredCases(None, {}), self.device, "alpha", progress=False)
        found = retained(dice[:-1], dice[-1], host_at_end=False)
        self.notes["alpha"] = ", ".join(f"{a:g}: {np.nanmean(d):.3f}" for a, d in zip(ALPHAS, dice))
        print(f"   own validation Dice by alpha {self.notes['alpha']}; A alone {np.nanmean(dice[-1]):.3f}")
        return ALPHAS[found.index]

    def curves(self) -> None:
        """Dice over position and over active stitches, on own and the partners' test cases."""
        from curves import curves, draw

        from nnunetv2_stitch.fileio import read_json, write_json
        raw = {dataset_of(p): str(self.work / "raw" / dataset_of(p)) for p in self.host + self.partners}
        path = str(self.folder / "curves.json")
        found = read_json(path) if os.path.isfile(path) else {"host": dataset_of(self.host), "curves": {},
                                                              "partner": dataset_of(self.partner)}
        fit = self.fit.replace("_", "-")
        found["curves"][fit] = curves(self.stitch("2"), str(self.results), FOLD, raw, self.device)
        write_json(path, found)
        for kind in ("active", "positions"):
            draw([found], str(self.folder / f"{kind}.png"), kind)

    # -- predictions and numbers -----------------------------------------------------------------------------------

    def predict(self, name: str, make: Callable) -> dict[str, str]:
        """Folders of predictions by test set."""
        folders = {s: self.folder / "predictions" / name / s for s in self.sets}
        if not all((f / "done").is_file() for f in folders.values()):
            print(f"--- {name}", flush=True)
            predictor = make()
            for test_set, folder in folders.items():
                folder.mkdir(parents=True, exist_ok=True)
                images = self.work / "raw" / dataset_of(self.sets[test_set]) / RAW_TEST[0]
                predictor.predict_from_files_sequential(str(images), str(folder))
                (folder / "done").touch()
        return {s: str(f) for s, f in folders.items()}

    def dice(self, folder: str, test_set: str) -> np.ndarray:
        """Of every test case, in order of their names; NaN where neither side has a polyp."""
        from skimage import io
        labels = self.work / "raw" / dataset_of(self.sets[test_set]) / RAW_TEST[1]
        found = []
        for file in sorted(labels.glob("*.png")):
            found.append(dice_of(io.imread(file) > 0, io.imread(Path(folder) / file.name) > 0))
        return np.array(found)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("work", type=Path)
    parser.add_argument("-host", default="A", choices=tuple("ABCE"))
    parser.add_argument("-partner", default=["B"], nargs="+", choices=tuple("ABCE"))
    parser.add_argument("-seed", type=int, default=1)
    parser.add_argument("-fit", default="double_batched", choices=tuple(SHORT))
    parser.add_argument("-epochs", type=int, default=3)
    parser.add_argument("-iterations", type=int, default=50)
    parser.add_argument("-curves", action="store_true")
    parser.add_argument("-rows", nargs="+", help="part of their names; default all")
    args = parser.parse_args()
    work = args.work.resolve()
    study = Study(work, args.host, "".join(args.partner), args.seed, args.fit, args.epochs, args.iterations)
    os.environ.update(environment(work), nnUNet_results=str(study.results), nnUNet_n_proc_DA="0", nnUNet_def_n_proc="1")
    torch.set_num_threads(1)
    if args.curves:
        study.curves()
        return
    from nnunetv2_stitch.fileio import write_json
    dice: dict[str, dict[str, np.ndarray]] = {}
    for name, make in study.rows().items():
        if args.rows and name != "A alone" and not any(r in name for r in args.rows):
            continue
        folders = study.predict(name, make)
        dice[name] = {s: study.dice(folder, s) for s, folder in folders.items()}
        found = summary(dice)
        write_json(str(study.folder / "study.json"),
                   {"dice": found, "notes": study.notes, "cases": as_lists(dice)})
        (study.folder / "study.md").write_text(markdown(found, study.notes))
        print(f"{name}: " + ", ".join(f"{s} {found[name]['dice'][s][0]:.3f}" for s in ("own", "partner", "unseen")),
              flush=True)
    print(markdown(summary(dice), study.notes))


if __name__ == "__main__":
    main()
