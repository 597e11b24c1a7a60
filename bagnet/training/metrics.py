"""Loss and accuracy over the samples of an epoch or of a validation set."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F
from torchmetrics import Metric

from datamodules.common.batch import UNREADABLE

NAMES = ("loss", "top1", "top5")


class ClassificationMetrics(Metric):
    """Mean loss, top-1 and top-5 accuracy (0 to 1) of all readable samples of all ranks, by their names.

    It never waits for a GPU before ``compute``, which torchmetrics' own accuracy does where it leaves samples out. A loss of
    NaN makes the mean NaN. In float64: a mean over 50,000 losses must not depend on how many ranks shared the sum.
    """

    full_state_update = False
    sums: Tensor
    count: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.add_state("sums", torch.zeros(len(NAMES), dtype=torch.float64), dist_reduce_fx="sum")
        self.add_state("count", torch.zeros((), dtype=torch.int64), dist_reduce_fx="sum")

    def update(self, logits: Tensor, labels: Tensor) -> None:
        """Count a batch.

        Args:
            logits: (B, classes), floating.
            labels: int64 (B,), with -1 for what could not be read.
        """
        losses = F.cross_entropy(logits, labels, ignore_index=UNREADABLE, reduction="none")
        readable = labels != UNREADABLE
        rank = rank_of_label(logits, labels.clamp(min=0))
        values = (losses, readable & (rank < 1), readable & (rank < 5))
        self.sums += torch.stack([value.double() for value in values]).sum(dim=1)
        self.count += readable.sum()

    def compute(self) -> dict[str, Tensor]:
        return dict(zip(NAMES, self.sums / self.count, strict=True))


def rank_of_label(logits: Tensor, labels: Tensor) -> Tensor:
    """How many classes come before the true one: int64 (B,), 0 is right.

    Of equal logits the lower class comes first, as with ``argmax``; so that all ways of running agree. A NaN
    comes before all others.

    Args:
        logits: (B, classes).
        labels: int64 (B,).
    """
    mine = logits.gather(1, labels[:, None])
    classes = torch.arange(logits.shape[1], device=logits.device)
    behind = (logits < mine) | ((logits == mine) & (classes >= labels[:, None]))
    return logits.shape[1] - behind.sum(dim=1)
