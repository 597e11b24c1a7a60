"""Images and labels of a batch mixed with each other, and the loss of mixed labels."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F
from torchvision.transforms import v2

from datamodules.common.batch import UNREADABLE
from datamodules.decoding.transforms import drawing_from


def mix(
    images: Tensor, labels: Tensor, num_classes: int, *, mixup: float, cutmix: float, seed: int
) -> tuple[Tensor, Tensor]:
    """Mix each image and its label with those of the next one in the batch.

    This is torchvision's MixUp (Zhang et al. 2018), its CutMix (Yun et al. 2019), or one of the two
    at random for the whole batch. It runs on the images' device; only a few numbers are drawn.

    Args:
        images: (B, C, H, W), any dtype.
        labels: int64 (B,); -1 for an unreadable sample.
        num_classes: Number of classes K.
        mixup: Alpha of MixUp's Beta distribution; 0 switches it off.
        cutmix: Alpha of CutMix's; 0 switches it off.
        seed: The result depends on it and the other arguments only.

    Returns:
        The images, floating point, and the share of each class in them, float32 (B, K). An
        unreadable sample adds nothing to the shares, so they can sum to less than one.
    """
    shares = (labels[:, None] == torch.arange(num_classes, device=labels.device)).float()
    kinds = [v2.MixUp(alpha=mixup)] if mixup else []
    kinds += [v2.CutMix(alpha=cutmix)] if cutmix else []
    with drawing_from(seed):
        mixed: tuple[Tensor, Tensor] = v2.RandomChoice(kinds)(images.float(), shares)
    return mixed


def largest(shares: Tensor) -> Tensor:
    """Label each image with the class that has the largest share: float (B, K) -> int64 (B,).

    The accuracy of a training with mixed labels counts these. Unreadable samples get -1.
    """
    label: Tensor = torch.where(shares.sum(1) > 0, shares.argmax(1), UNREADABLE)
    return label


def classification_loss(
    logits: Tensor, labels: Tensor, smoothing: float = 0.0, weight: Tensor | None = None
) -> Tensor:
    """Compute the mean cross entropy over the readable samples of a batch.

    Args:
        logits: (B, K), floating point.
        labels: int64 (B,), -1 for an unreadable sample; or the shares of the classes, (B, K).
        smoothing: The part of each label that is spread evenly over all classes (Szegedy et al.
            2016), 0 to 1.
        weight: Weights of the classes, (K,), which multiply the terms of the sum.

    Returns:
        A scalar. It is divided by the number of readable samples, also if the classes have weights:
        then batches count the same whatever classes they happen to have.
    """
    if labels.ndim == 1:
        count = (labels != UNREADABLE).sum().clamp(min=1)
        total = F.cross_entropy(
            logits,
            labels,
            weight,
            ignore_index=UNREADABLE,
            label_smoothing=smoothing,
            reduction="sum",
        )
        return total / count
    known = labels.sum(1, keepdim=True)
    shares = (1 - smoothing) * labels + smoothing / labels.shape[1] * known
    terms = shares * logits.log_softmax(1)
    if weight is not None:
        terms = terms * weight
    return -terms.sum() / known.sum().clamp(min=torch.finfo(known.dtype).tiny)
