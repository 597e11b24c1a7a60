"""Loss and accuracy over the samples of an epoch or of a validation set."""

from __future__ import annotations

import math
import warnings

import torch
from torch import Tensor
from torch.nn import functional as F
from torchmetrics import Metric
from torchmetrics.functional.classification import multiclass_auroc, multiclass_confusion_matrix
from torchmetrics.utilities import dim_zero_cat

from datamodules.common.batch import UNREADABLE

NAMES = ("loss", "top1", "top5")
FEW_CLASSES = 20
"""Up to so many classes, evaluations have the figures of `FewClassMetrics` too."""


class ClassificationMetrics(Metric):
    """Mean loss, top-1 and top-5 accuracy (0 to 1) over all readable samples of all ranks, by name.

    Top-5 is left out where it says nothing, with five classes or fewer.

    `update` never waits for a GPU, unlike torchmetrics' accuracy with `ignore_index`. A loss of NaN
    makes the mean NaN. Sums are float64, so that a mean over 50,000 losses does not depend on the
    number of ranks.
    """

    full_state_update = False
    totals: Tensor
    below: Tensor

    def __init__(self, num_classes: int) -> None:
        super().__init__()
        self.num_classes = num_classes
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
        figures = dict(zip(NAMES, self.totals[:3] / self.totals[3], strict=True))
        if self.num_classes <= 5:
            del figures["top5"]
        return figures


class FewClassMetrics(ClassificationMetrics):
    """Also balanced accuracy, AUROC and the confusion matrix, from all logits of an evaluation.

    Balanced accuracy is the mean, over the classes that have images, of the share of a class's
    images that are recognised. AUROC is the mean, over these classes, of the area under the ROC
    curve of the class against all others; it is NaN if there is only one.

    Attributes:
        confusion: Number of images by true class (rows) and predicted class (columns) in the last
            evaluation, int64 (classes, classes).
    """

    logits: list[Tensor]
    labels: list[Tensor]

    def __init__(self, num_classes: int) -> None:
        super().__init__(num_classes)
        self.add_state("logits", [], dist_reduce_fx="cat")
        self.add_state("labels", [], dist_reduce_fx="cat")
        self.confusion = torch.zeros(num_classes, num_classes, dtype=torch.int64)

    def update(self, logits: Tensor, labels: Tensor) -> None:
        """Add a batch, see `ClassificationMetrics.update`."""
        super().update(logits, labels)
        # Copies: CUDA graphs overwrite their output, and workers need the memory of their batches.
        self.logits.append(logits.detach().clone())
        self.labels.append(labels.clone())

    def compute(self) -> dict[str, Tensor]:
        logits, labels = dim_zero_cat(self.logits), dim_zero_cat(self.labels)
        readable = labels != UNREADABLE
        logits, labels = logits[readable].double(), labels[readable]
        matrix = multiclass_confusion_matrix(
            logits.argmax(1), labels, self.num_classes, validate_args=False
        )
        self.confusion = matrix.cpu()
        images = matrix.sum(1)
        recalls = matrix.diag().double() / images
        return {
            **super().compute(),
            "balanced_accuracy": recalls[images > 0].mean(),
            "auroc": _auroc(logits.softmax(1), labels, images > 0),
        }


def evaluation_metrics(num_classes: int) -> ClassificationMetrics:
    """The metrics of a validation or a test."""
    kind = FewClassMetrics if num_classes <= FEW_CLASSES else ClassificationMetrics
    return kind(num_classes)


def among(logits: Tensor, present: Tensor | None) -> Tensor:
    """Logits (B, classes) of which only some can win; all others become -inf.

    So accuracy is measured on a part of a network's classes, as ImageNet-A and -R define theirs.

    Args:
        logits: (B, classes), floating point.
        present: The labels that can win, int64 (n,) on the same device; None for all.
    """
    if present is None:
        return logits
    return torch.full_like(logits, -math.inf).index_copy(1, present, logits[:, present])


def _auroc(probabilities: Tensor, labels: Tensor, present: Tensor) -> Tensor:
    """Mean AUROC of the classes that are present, each against all others; NaN for one class."""
    if present.sum() < 2:
        return torch.tensor(math.nan, device=labels.device, dtype=torch.float64)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="No positive samples")  # of an absent class
        areas: Tensor = multiclass_auroc(
            probabilities, labels, len(present), average="none", validate_args=False
        )
    return areas[present].mean().double()


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
