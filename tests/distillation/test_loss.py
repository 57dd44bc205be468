"""The teacher's term and the labels' loss, on real networks and nnU-Net's own losses."""

import pytest
import torch
from close import assert_same
from networks import build, ensemble, image, spec
from nnunetv2.training.loss.compound_losses import DC_and_BCE_loss, DC_and_CE_loss
from nnunetv2.training.loss.deep_supervision import DeepSupervisionWrapper
from nnunetv2.training.loss.dice import MemoryEfficientSoftDiceLoss

from nnunetv2_stitch.distillation.loss import label_loss, teacher_term
from nnunetv2_stitch.distillation.teacher import teach
from nnunetv2_stitch.stitching.setting import Setting


def teacher_and_student(seeds=(0, 0), regions=False):
    """A deployed plain ensemble of two networks, and the first of them with gradients."""
    parents = [build(spec(), seed) for seed in seeds]
    supernet = ensemble(spec(), spec(), networks=parents, regions=regions)
    return supernet.deployed(Setting()).requires_grad_(False), build(spec(), seeds[0])


def term_and_steepest(teacher, student, x, regions):
    """The term, and the largest entry of its gradient."""
    term = teacher_term(student(x), teach(teacher, x), regions)
    term.backward()
    gradients = [p.grad for p in student.parameters() if p.grad is not None]  # not of deep supervision's heads
    return term.item(), max(g.abs().max().item() for g in gradients)


@pytest.mark.parametrize("regions", [False, True])
def test_a_student_equal_to_its_teacher_is_at_the_minimum(regions):
    teacher, student = teacher_and_student(regions=regions)
    x = image()
    here, steepest = term_and_steepest(teacher, student, x, regions)
    assert abs(here) < 1e-6 and steepest < 1e-5
    # Anywhere else there is a way down.
    there, slope = term_and_steepest(*teacher_and_student((0, 1), regions), x, regions)
    assert there > 0.01 and slope > 100 * steepest


def test_the_term_is_kullback_leibler_per_voxel():
    generator = torch.Generator().manual_seed(0)
    p, q = (torch.randn(2, 3, 4, 5, generator=generator, dtype=torch.float64) for _ in range(2))
    for regions in (False, True):
        if regions:
            a, b = torch.sigmoid(q), torch.sigmoid(p)
            wanted = (a * (a / b).log() + (1 - a) * ((1 - a) / (1 - b)).log()).mean()
        else:
            a, b = q.softmax(1), p.softmax(1)
            wanted = (a * (a / b).log()).sum(1).mean()
        assert_same(teacher_term(p, q, regions), wanted, precision=torch.float32)
    # A teacher who is certain, as far as numbers go, gives no NaN, and half precision is enough to come in.
    certain = torch.full((1, 3, 4, 4), -200.).index_fill_(1, torch.tensor([1]), 200.)
    for regions in (False, True):
        assert torch.isfinite(teacher_term(certain.flip(1).half(), certain.half(), regions))


def test_a_few_steps_lower_the_term():
    teacher, student = teacher_and_student((0, 1))
    x = image(batch=4)
    with torch.no_grad():
        answer = teach(teacher, x)
    optimizer = torch.optim.SGD(student.parameters(), 0.05, momentum=0.9)
    terms = []
    for _ in range(12):
        optimizer.zero_grad()
        term = teacher_term(student(x), answer)
        term.backward()
        optimizer.step()
        terms.append(term.item())
    assert terms[-1] < 0.5 * terms[0]
    assert all(p.grad is None for p in teacher.parameters())


def losses():
    """nnU-Net's, with deep supervision and an ignore label: of labels, of regions; with outputs and targets."""
    generator = torch.Generator().manual_seed(0)
    outputs = [torch.randn(4, 3, s, s, generator=generator, requires_grad=True) for s in (16, 8)]
    labels = [torch.randint(0, 4, (4, 1, s, s), generator=generator).float() for s in (16, 8)]
    dice = {"batch_dice": True, "smooth": 1e-5, "ddp": False}
    ce = DC_and_CE_loss({**dice, "do_bg": False}, {}, ignore_label=3, dice_class=MemoryEfficientSoftDiceLoss)
    bce = DC_and_BCE_loss({}, {**dice, "do_bg": True}, use_ignore_label=True, dice_class=MemoryEfficientSoftDiceLoss)
    masks = [torch.cat([t == 1, t == 2, t == 0, t == 3], 1) for t in labels]
    return [(DeepSupervisionWrapper(loss, (0.7, 0.3)), outputs, t) for loss, t in ((ce, labels), (bce, masks))]


@pytest.mark.parametrize("case", [0, 1], ids=["labels", "regions"])
def test_unlabelled_samples_are_left_out_of_the_labels_loss(case):
    loss, outputs, target = losses()[case]
    mixed = label_loss(loss, outputs, target, [True, False, True, False])
    assert mixed == loss([o[::2] for o in outputs], [t[::2] for t in target])
    mixed.backward()
    assert not outputs[0].grad[1::2].any() and outputs[0].grad[::2].any() and outputs[1].grad[::2].any()
    assert label_loss(loss, outputs, target, [True] * 4) == loss(outputs, target)
    assert label_loss(loss, outputs, target, [False] * 4) == 0


def test_ignored_voxels_are_taught_by_the_teacher_alone():
    loss, (full, low), target = losses()[0]
    ignored = (target[0] == 3).expand_as(full)
    loss([full, low], target).backward()
    assert not full.grad[ignored].any()
    full.grad = None
    teacher_term(full, torch.randn_like(full)).backward()
    assert full.grad[ignored].any()
