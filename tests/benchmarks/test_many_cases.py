"""The benchmark of many cases, with few: the command is killed in its sweep, and goes on."""

import re
import sys

import many_cases
import pytest


@pytest.mark.slow
def test_many_cases(world2d, copy_world, nnunet_env, monkeypatch, capsys):
    world = nnunet_env(copy_world(world2d))
    before = sorted(world.root.rglob("*"))
    monkeypatch.setattr(many_cases, "nnUNet_preprocessed", world.preprocessed)  # nnU-Net reads them when imported
    monkeypatch.setattr(many_cases, "nnUNet_results", world.results)
    monkeypatch.setattr(many_cases, "maybe_convert_to_dataset_name", {
        str(p.dataset_id): p.dataset for p in (world.host, world.partner)}.__getitem__)
    monkeypatch.setattr(sys, "argv", ["many_cases", str(world.host.dataset_id), str(world.partner.dataset_id),
                                      "-cases", "14", "-batches", "10", "-positions", "all"])
    many_cases.main()
    out = capsys.readouterr().out
    said = re.search(r"after (\d+) of 14 cases; of (\d+) lines .*, (\d+) repeat", out)
    killed, seen, repeated = map(int, said.groups())
    assert 7 <= killed <= 14 and seen >= killed and repeated == 0
    assert "the sweep is the same as one that was not interrupted" in out
    assert 0.8 < float(re.search(r"ratio ([\d.]+)", out)[1]) < 1.2
    assert sorted(world.root.rglob("*")) == before
