"""What an adapted partner takes along into gates, students and exports: its signature, its licence, and what it is."""

import json
import zipfile
from pathlib import Path

import pytest
import torch
from adapting import adapt, final
from stitched_model import SHORT

from nnunetv2_stitch.distillation import distill
from nnunetv2_stitch.entrypoints import export_party as export_command
from nnunetv2_stitch.exchange.export import export_party
from nnunetv2_stitch.exchange.install import unpack_party
from nnunetv2_stitch.exchange.parents import Partner
from nnunetv2_stitch.fileio import read_json
from nnunetv2_stitch.parties.model_folder import read_model_folder
from nnunetv2_stitch.pipeline import train_stitch
from nnunetv2_stitch.stitching.plans import Stitching, shown_names
from nnunetv2_stitch.training import adapted_state

pytestmark = pytest.mark.slow


@pytest.fixture
def world(world2d, copy_world, nnunet_env, thread_pools):
    return nnunet_env(copy_world(world2d))


def export(*arguments) -> None:
    export_command.main(export_command.build_parser().parse_args([*map(str, arguments)]))


def test_the_partners_signature_holds_for_the_adapted_partner(world, tmp_path, capsys):
    """What a signature was measured behind is not trained, so the gate knows B's images through the adapted partner."""
    sent = tmp_path / "B.zip"
    export_party(read_model_folder(str(world.model(world.partner))), str(sent), folds=[0], licence="CC BY 4.0")
    result = adapt(world, sent)
    start, weights = adapted_state(result.model_folder, 0, 0), final(result.model_folder)
    first, later = (f"encoder.stages.{i}.0.convs.0.conv.weight" for i in (0, 1))
    assert torch.equal(start[first], weights[first])
    assert result.alpha > 0 and not torch.equal(start[later], weights[later])
    with zipfile.ZipFile(sent) as archive:
        assert json.loads(archive.read("fold_0_signature.json")) == read_json(
            str(Path(result.model_folder) / "fold_0" / "signature.json"))
    gated = train_stitch(world.host.dataset_id, model_b=result.model_folder, device="cpu", progress=False, gate=True,
                         **SHORT)
    gate = read_json(str(Path(gated.model_folder) / "stitch_selection.json"))["gate"]
    assert gate["partners_known"] == [True]
    # Beside the partner as it came, whose signature is the same, the adapted one alone claims B's images.
    both = train_stitch(world.host.dataset_id, model_b=str(sent), more=[Partner(model=result.model_folder)],
                        device="cpu", progress=False, gate=True, plans_name="nnUNetStitchBothPlans", **SHORT)
    gate = read_json(str(Path(both.model_folder) / "stitch_selection.json"))["gate"]
    assert gate["partners_known"] == [False, True]
    assert any(line.startswith(f"Images like those of {world.partner.dataset} are left to {world.partner.dataset}, "
                               f"adapted;")
               for line in both.remarks) and not any("Without a signature" in line for line in both.remarks)
    # The licence of the partner goes on with the model that was made of it.
    assert Stitching.of(read_json(str(Path(gated.model_folder) / "plans.json"))["configurations"]["2d"]).parents[
        1].licence == "CC BY 4.0"
    assert "CC BY 4.0" in Path(gated.model_folder, "MODEL_CARD.md").read_text()
    # An adapted partner goes by the partner's name, and a model made of another party's says so when it travels on.
    plans = read_json(str(Path(gated.model_folder) / "plans.json"))["configurations"]["2d"]
    assert shown_names(Stitching.of(plans).parents) == [world.host.dataset, f"{world.partner.dataset}, adapted"]
    passed_on = result.model_folder
    for number in range(2):
        sent = export_party(read_model_folder(passed_on), str(tmp_path / f"on_{number}.zip"), folds=[0])
        assert sent.manifest.made_from == (f"{world.partner.dataset}, nnUNetTrainerTiny__nnUNetPlans__2d, trained on "
                                           f"by another party; its licence: CC BY 4.0")
        with zipfile.ZipFile(sent.path) as archive:
            assert "| Made from | " in archive.read("MODEL_CARD.md").decode()
        passed_on = unpack_party(sent.path, str(tmp_path / f"received_{number}")).path

    student = distill(gated.model_folder, world.host.dataset, device="cpu", progress=False, folds=[0], epochs=1,
                      iterations=2, validate=False)
    # So does the licence with a student of both; and the command that sends them says so.
    for number, folder in enumerate((result.model_folder, student.model_folder)):
        capsys.readouterr()
        export("-m", folder, "-o", tmp_path / f"by_command_{number}.zip", "-f", 0)
        said = capsys.readouterr().out
        assert "The card says what went into this model: " in said and "its licence: CC BY 4.0" in said
        assert "-licence adds one" in said and "No licence is named" not in said
    assert "stitched into what taught this one; its licence: CC BY 4.0" in said
    export("-m", passed_on, "-o", tmp_path / "named.zip", "-f", 0, "-licence", "CC0")
    assert "icence is named" not in capsys.readouterr().out
    told = read_json(str(Path(student.model_folder) / "fold_0" / "distillation.json"))
    assert told["adapted"] == ["partner"] and "gate" in told
    assert told["taught_by"].endswith("with the partner adapted to the host's images")
    assert "trained on with the host's images" in Path(gated.model_folder, "MODEL_CARD.md").read_text()
    plans = read_json(str(Path(student.model_folder) / "plans.json"))
    assert plans["distilled_from_stitched"] and "adapted_from_partner" not in plans
