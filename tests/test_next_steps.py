"""Commands to copy, on pages and at the ends of commands. The kind: one that leaves out a flag of the request, without
which it would do something else, or nothing."""

import json
import shlex
from argparse import ArgumentParser, Namespace
from dataclasses import fields, replace
from pathlib import Path

import pytest
import torch
from pages import page_of, pictured

from nnunetv2_stitch import command_lines
from nnunetv2_stitch.bridging.names import NameMaps
from nnunetv2_stitch.entrypoints import adapt_party, train_stitch
from nnunetv2_stitch.entrypoints.parties import parse_parties
from nnunetv2_stitch.exchange.parents import Partner
from nnunetv2_stitch.parties.model_folder import ADAPTED_KEY
from nnunetv2_stitch.parties.trust import trusting
from nnunetv2_stitch.pipeline import Request, prepare
from nnunetv2_stitch.pipeline import job as stitch_job
from nnunetv2_stitch.pipeline import train_stitch as train_stitch_of
from nnunetv2_stitch.training import AdaptRequest, adapt_job

CPU = torch.device("cpu")
#: Flags that say how one run goes, and not what is asked for.
OF_A_RUN = {"help", "select", "sweeps", "prefer", "num_gpus", "npz", "continue_training", "val", "dry_run", "trust",
            "device", "disable_progress_bar", "verbose"}
MAPS = "-label_map labels.json - -channel_map - channels.json"
PARTIES = f"-m_a /a -m_b /b /c -c 2d -tr_b T U -p_b P - -f_b 1 all {MAPS} -chk_a best.pth -chk_b - latest.pth -chk x"
STITCH = [
    f"{PARTIES} -f 0 all -tr_a S -p_a Q -fit task -positions 3,7,20-22 -epochs 3 -iterations 4 -seed 5 -rule retain "
    f"-tolerance 0.25 -search_steps 7 -output partner -combine logits -checkpoint_segments auto -positions_per_pass 2 "
    f"--half_targets -o_p N",
    "-m_a /a -m_b /b -position 0.65 -checkpoint_segments 3 -f_b 0",
    "-m_a /a -m_b /b /c -position 44 3 -f_b 0 -gate on",
    "-m_a /a -m_b /b -gate on -tolerance 2",
    "-m_a /a -m_b /b -gate on -rule 2 -positions blocks",
    "-m_a /a -m_b '/a folder/b'",
]
ADAPT = [
    "A -m_b /b -label_map labels.json -channel_map channels.json -c 2d -f 0 all -tr_a S -p_a Q -tr_b T -p_b P -f_b 1 "
    "-chk_b best.pth -epochs 3 -iterations 4 -lr 0.000123456789 -seed 5 -tolerance 0.25 -alpha 0.3 -o_p N",
    "A -m_b /b -alpha retain",
    "A -m_b /b",
]


@pytest.fixture(autouse=True)
def maps(tmp_path, monkeypatch):
    """Files of names, in the folder where the commands are typed."""
    monkeypatch.chdir(tmp_path)
    for name in ("labels", "channels"):
        Path(f"{name}.json").write_text(json.dumps({"theirs": name}))


def parsed(parser: ArgumentParser, words: list[str], monkeypatch) -> Namespace:
    monkeypatch.setattr("sys.argv", ["command", *words])
    return parse_parties(parser)


def not_default(parser: ArgumentParser, args: Namespace) -> set[str]:
    return {a.dest for a in parser._actions if hasattr(args, a.dest) and getattr(args, a.dest) != a.default}


def files(request) -> list:
    return [p.names.files for p in (request.partners if isinstance(request, Request) else [request.partner])]


@pytest.mark.parametrize(("command", "kind", "lines", "places"), [
    (train_stitch, Request, STITCH, {"parties"}), (adapt_party, AdaptRequest, ADAPT, set())], ids=["stitch", "adapt"])
def test_a_request_as_a_command_is_the_same_request_to_its_parser(command, kind, lines, places, monkeypatch):
    """Of all flags that there are: a new one belongs into a line above, or among those of a run."""
    given = set()
    for line in lines:
        args = parsed(command.build_parser(), shlex.split(line), monkeypatch)
        given |= not_default(command.build_parser(), args)
        asked = kind(**command.request_of(args))
        again = parsed(command.build_parser(), asked.words(), monkeypatch)
        found = kind(**command.request_of(again))
        assert found == asked, line
        assert files(found) == files(asked) and (all(f is None or Path(f).is_absolute() for f in files(asked)[0]))
    assert given | OF_A_RUN | places == {a.dest for a in command.build_parser()._actions if a.dest != "help"} | OF_A_RUN


@pytest.mark.parametrize("module, kind", [(stitch_job, Request), (adapt_job, AdaptRequest)])
def test_every_field_of_a_request_has_a_flag_or_is_known_to_have_none(module, kind):
    assert set(module.FLAGS) == {f.name for f in fields(kind)}


def test_maps_of_names_that_came_from_no_file_get_a_place_to_fill():
    asked = Request(None, None, model_a="/a", model_b="/b", names=NameMaps({}, {"T1": None}),
                    more=(Partner(model="/c", names=NameMaps({"theirs": "ours"}, {})),))
    assert asked.words() == ["-m_a", "/a", "-m_b", "/b", "/c", "-label_map", "-", "LABELS_OF_C.json", "-channel_map",
                             "CHANNELS_OF_B.json", "-"]


def test_how_a_run_went_is_said_where_a_command_would_not_go_so_by_itself(monkeypatch):
    """The kind, of flags of a run: stock nnU-Net takes CUDA unless it is told, and a model that was read with --trust
    is refused without."""
    for there in (False, True):
        monkeypatch.setattr(torch.cuda, "is_available", lambda there=there: there)
        for kind in ("cpu", "cuda", "mps"):
            line = command_lines.ours("command", "-x", 1, device=torch.device(kind))
            assert line == "command -x 1" + ("" if (kind == "cuda") == there and kind != "mps" else f" -device {kind}")
    assert command_lines.stock("command", device=CPU) == "command -device cpu"
    assert command_lines.stock("command", device=torch.device("cuda")) == "command"
    with trusting(True, aloud=False):
        assert command_lines.ours("command", device=None) == "command --trust"
        assert command_lines.stock("command", device=torch.device("cuda")) == "command"


def test_of_three_parties_three_have_test_cases():
    line = command_lines.evaluating({"A alone": "/a b"}, [0, "all"], CPU, parties=3)[1]
    assert "-models 'A alone=/a b' -datasets A=TEST_CASES_OF_A B=TEST_CASES_OF_B C=TEST_CASES_OF_C -f 0 all" in line


@pytest.mark.slow
def test_what_a_page_shows_is_taken_for_what_was_asked(stitched2d, copy_world, nnunet_env, thread_pools, monkeypatch):
    """Of a model with B's fold, names and places of its own: the gate's command finds the same parties, and in an
    evaluation nobody answers with other folds or under other names than were stitched."""
    world = nnunet_env(copy_world(stitched2d.world))
    plans = world.model(world.partner) / "plans.json"
    plans.write_text(json.dumps({**json.loads(plans.read_text()), ADAPTED_KEY: True}))
    Path("labels.json").write_text(json.dumps({"a": "a"}))
    asked = {"names": NameMaps.read("labels.json", None), "rule": "1"}
    parties = (world.host.dataset_id, None, None, str(world.model(world.partner)))
    result = train_stitch_of(*parties[:2], model_b=parties[3], device="cpu", progress=False, only_selection=True,
                             **asked)
    page = page_of(result.model_folder)
    assert all(line in page.text for _, line in result.commands)
    # B was adapted, so it is not "B alone" anywhere.
    assert "B adapted alone" in pictured(page)[0] and "B, a partner, adapted" in page.text
    assert "B alone" not in page.text + "".join(pictured(page))
    commands = dict(result.commands)
    gate = shlex.split(commands["Give each image its own shares of the parties"])
    args = parsed(train_stitch.build_parser(), gate[1:], monkeypatch)
    train_stitch.require_consistent(args)
    now = Request(**train_stitch.request_of(args))
    before = prepare(Request(*parties, **asked), True)
    job = prepare(now, True)
    assert args.select and (now.gate, now.rule, now.names) == (True, "1", asked["names"])
    assert (job.model_folder, job.stitching, job.partner_folds) == (before.model_folder, before.stitching,
                                                                    before.partner_folds)
    evaluate = shlex.split(commands["Evaluate on test cases with labels, yours and others'"])
    models = evaluate[evaluate.index("-models") + 1:evaluate.index("-datasets")]
    assert models[:2] == [f"A alone={world.model(world.host)}", f"B adapted alone={result.model_folder}@partner"]
    assert evaluate[evaluate.index("-f") + 1:][:2] == ["0", "1"]
    assert replace(now, gate=False).words() + ["-gate", "on"] == now.words()
