"""What a student is trained by: nnU-Net's loss where there are labels, the teacher's probabilities everywhere."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch.nn import functional as F

Outputs = torch.Tensor | Sequence[torch.Tensor]  # with deep supervision one per resolution, the full one first


def full_resolution(outputs: Outputs) -> torch.Tensor:
    return outputs if isinstance(outputs, torch.Tensor) else outputs[0]


def teacher_term(student: torch.Tensor, teacher: torch.Tensor, regions: bool = False) -> torch.Tensor:
    """Kullback-Leibler divergence of the student's probabilities from the teacher's, in nats, at temperature 1.

    Both are logits `(B, K, *spatial)` on the same grid. Softmax: `sum_k q_k log(q_k / p_k)`, mean over voxels, as
    nnU-Net's cross-entropy. Regions: of each region's sigmoid, mean over voxels and regions, as nnU-Net's binary
    cross-entropy. It is soft cross-entropy less the teacher's entropy, so 0 where both agree and nowhere less.
    """
    student, teacher = student.float(), teacher.float()  # half precision has no digits left for rare labels
    if not regions:
        log_p, log_q = F.log_softmax(student, 1), F.log_softmax(teacher, 1)
        return F.kl_div(log_p, log_q, reduction="none", log_target=True).sum(1).mean()
    yes, no = ((F.logsigmoid(sign * teacher), F.logsigmoid(sign * student)) for sign in (1, -1))
    return sum((q.exp() * (q - p)).mean() for q, p in (yes, no))


def label_loss(loss: Callable[[Outputs, Outputs], torch.Tensor], outputs: Outputs, targets: Outputs,
               labelled: Sequence[bool]) -> torch.Tensor:
    """nnU-Net's `loss` of the samples that have labels; 0 in a batch that has none.

    `outputs` and `targets` as the loss takes them: a tensor `(B, K, *spatial)`, or a list of them by resolution.
    """
    if all(labelled):
        return loss(outputs, targets)
    if not any(labelled):
        return full_resolution(outputs).new_zeros(())
    chosen = torch.tensor([i for i, yes in enumerate(labelled) if yes], device=full_resolution(outputs).device)

    def of(values: Outputs) -> Outputs:
        return values[chosen] if isinstance(values, torch.Tensor) else [v[chosen] for v in values]

    return loss(of(outputs), of(targets))
