"""The student's plans: the plain host's, or others whose images the teacher can read."""

import json

import pytest
import torch
from distill_steps import teacher_of
from torch.utils.flop_counter import FlopCounterMode

from nnunetv2_stitch.distillation import DistillRequest, prepare
from nnunetv2_stitch.distillation.student import host_plans
from nnunetv2_stitch.distillation.teacher import read_teacher, require_patch
from nnunetv2_stitch.errors import StitchError
from nnunetv2_stitch.fileio import read_json
from nnunetv2_stitch.graph import trace
from nnunetv2_stitch.stitching.description import build_parent
from nnunetv2_stitch.training.records import DISTILLATION as KEY


def request(world, **arguments):
    return DistillRequest(str(teacher_of(world)), world.host.dataset_id, **arguments)


def test_the_student_is_the_hosts_network_at_the_cost_of_one(world):
    job = prepare(request(world))
    assert job.folds == [0, 1] and job.record.start == "host"
    original = read_json(world.preprocessed / world.host.dataset / "nnUNetPlans.json")
    mine, theirs = (p["configurations"]["2d"] for p in (job.plans, original))
    assert mine["architecture"] == theirs["architecture"]
    assert {k: v for k, v in mine.items() if k != KEY} == {k: v for k, v in theirs.items() if k in mine}
    networks = [build_parent(c["architecture"], 1, 3) for c in (mine, theirs)]
    assert len({sum(p.numel() for p in n.parameters()) for n in networks} | {job.parameters[0]}) == 1
    assert len({str(trace(n).graph) for n in networks}) == 1
    flops = []
    for network in networks:
        with FlopCounterMode(display=False) as counter, torch.no_grad():
            network(torch.zeros(1, 1, 64, 64))
        flops.append(counter.get_total_flops())
    assert flops[0] <= 1.02 * flops[1] and flops[0] > 0
    assert job.parameters[1] > 1.4 * job.parameters[0]


def other_plans(world, change, name="OtherPlans"):
    plans = read_json(world.preprocessed / world.host.dataset / "nnUNetPlans.json")
    change(plans, plans["configurations"]["2d"])
    (world.preprocessed / world.host.dataset / f"{name}.json").write_text(json.dumps({**plans, "plans_name": name}))
    return name


def test_plans_that_the_teacher_cannot_teach_are_refused(world):
    for change, said in (
            (lambda p, c: c.update(spacing=[1.5, 1.0]), "spacing"),
            (lambda p, c: c.update(normalization_schemes=["NoNormalization"]), "normalisation"),
            (lambda p, c: p.update(transpose_forward=[0, 2, 1]), "order of axes"),
            (lambda p, c: c.update(patch_size=[60, 64]), "multiples of 8x8"),
            (lambda p, c: c.update(data_identifier="elsewhere_2d"), "elsewhere_2d does not exist"),
            (lambda p, c: p.update(configurations={"3d_fullres": c}), "no configuration 2d")):
        with pytest.raises(StitchError, match=said):
            prepare(request(world, student=other_plans(world, change)))
    with pytest.raises(StitchError, match="NoPlans.json does not exist"):
        prepare(request(world, student="NoPlans"))
    # A stitched ensemble is no student.
    with pytest.raises(StitchError, match="one plain network"):
        prepare(request(world, student="nnUNetStitchPlans"))


def test_another_network_starts_from_scratch_unless_told_otherwise(world):
    def smaller(plans, configuration):
        configuration["architecture"]["arch_kwargs"]["features_per_stage"] = [4, 8, 16, 16]
    name = other_plans(world, smaller)
    job = prepare(request(world, student=name))
    assert job.record.start == "scratch" and job.record.host == {} and job.parameters[0] < 40000
    with pytest.raises(StitchError, match="tensor .* is of shape"):
        prepare(request(world, student=name, start="host"))


def test_patches_need_fit_only_networks_that_read_them_as_they_are(world):
    teacher = read_teacher(str(teacher_of(world)))
    require_patch(teacher, [64, 128])
    arguments = teacher.configuration_manager.network_arch_init_kwargs
    arguments["bridges"] = [{"ratio": [1.0, 1.0]}]
    arguments["parents"][1]["arch_kwargs"]["strides"] = [[5, 5]]
    require_patch(teacher, [64, 64])


def test_host_plans_are_of_the_teachers_configuration_alone(world):
    plans = host_plans(read_teacher(str(teacher_of(world))))
    assert list(plans["configurations"]) == ["2d"] and "stitching" not in plans["configurations"]["2d"]
