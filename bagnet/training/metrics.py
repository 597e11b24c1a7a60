"""Loss and accuracy over the samples of an epoch or of a validation set."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F
from torchmetrics import Metric

from datamodules.common.batch import UNREADABLE

NAMES = ("loss", "top1", "top5")


class ClassificationMetrics(Metric):
    """Mean loss, top-1 and top-5 accuracy (0 to 1) over all readable samples of all ranks, by name.

    `update` never waits for a GPU, unlike torchmetrics' accuracy with `ignore_index`. A loss of NaN
    makes the mean NaN. Sums are float64, so that a mean over 50,000 losses does not depend on the
    number of ranks.
    """

    full_state_update = False
    sums: Tensor
    count: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.add_state("sums", torch.zeros(len(NAMES), dtype=torch.float64), dist_reduce_fx="sum")
        self.add_state("count", torch.zeros((), dtype=torch.int64), dist_reduce_fx="sum")

    def update(self, logits: Tensor, labels: Tensor) -> None:
        """Add a batch.

        Args:
            logits: (B, classes), floating point.
            labels: int64 (B,); -1 for an unreadable sample, which does not count.
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
    """Count the classes that are ranked above the true one; this alone decides what is right.

    A prediction is top-1 right if its rank is 0, top-5 right if it is below 5. Among equal logits
    the lower class ranks first, as with `argmax`, so every device gives the same result. NaN ranks
    above all numbers, and a label whose own logit is NaN is never right.

    Args:
        logits: (B, classes), floating point.
        labels: int64 (B,), from 0 to classes - 1.

    Returns:
        Ranks, int64 (B,).
    """
    own = logits.gather(1, labels[:, None])
    classes = torch.arange(logits.shape[1], device=logits.device)
    not_above = (logits < own) | ((logits == own) & (classes >= labels[:, None]))
    return logits.shape[1] - not_above.sum(dim=1)
