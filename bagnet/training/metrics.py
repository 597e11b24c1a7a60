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
    totals: Tensor
    below: Tensor

    def __init__(self) -> None:
        super().__init__()
        # Loss, top-1, top-5, and the number of samples.
        self.add_state("totals", torch.zeros(4, dtype=torch.float64), dist_reduce_fx="sum")
        # The rank of a sample's label is below the first number if top-1 is right, below the second
        # if top-5 is, and always below the third, which counts samples.
        below = torch.tensor([[1], [5], [torch.iinfo(torch.int64).max]])
        self.register_buffer("below", below, persistent=False)

    def update(self, logits: Tensor, labels: Tensor) -> None:
        """Add a batch.

        Args:
            logits: (B, classes), floating point.
            labels: int64 (B,); -1 for an unreadable sample, which does not count.
        """
        # In few operations, because the host of a GPU needs microseconds to start each one.
        losses = F.cross_entropy(logits, labels, ignore_index=UNREADABLE, reduction="none")
        rank = rank_of_label(logits, labels.clamp(min=0))
        is_below = rank < self.below * (labels != UNREADABLE)  # never, if unreadable
        self.totals += torch.cat([losses[None], is_below]).sum(dim=1, dtype=torch.float64)

    def compute(self) -> dict[str, Tensor]:
        return dict(zip(NAMES, self.totals[:3] / self.totals[3], strict=True))


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
    not_above = torch.where(classes < labels[:, None], logits < own, logits <= own)
    return logits.shape[1] - not_above.sum(dim=1)
