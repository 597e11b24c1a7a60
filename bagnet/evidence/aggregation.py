"""How the evidence of patches becomes logits: the mean, as in training, and more robust ways.

Every function takes evidence (B, classes, H', W') and returns logits (B, classes) in the same
dtype, so one forward pass is enough to compare all of them.

Sources: Brendel & Bethge, ICLR 2019 ("Effect of logit thresholding" in the appendix: `clamp` and
`binarise`); Zhang et al., "Clipped BagNet", Deep Learning and Security Workshop 2020 (`clipped`);
Xiang et al., "PatchGuard", USENIX Security 2021 (`masked`). `certificates.py` has what the last two
guarantee under attack.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from torch import Tensor
from torch.nn import functional as F

Aggregation = Callable[[Tensor], Tensor]
"""Evidence (B, classes, H', W') -> logits (B, classes)."""


def mean(evidence: Tensor) -> Tensor:
    """The network's own logits."""
    return evidence.mean((2, 3))


def median(evidence: Tensor) -> Tensor:
    """The middle entry of each class, or the mean of the two in the middle."""
    ordered = evidence.flatten(2).sort().values
    count = ordered.shape[2]
    return (ordered[..., (count - 1) // 2] + ordered[..., count // 2]) / 2


def clamp(evidence: Tensor, threshold: float) -> Tensor:
    """mean(max(e, threshold)): evidence below the threshold (logits) counts as the threshold."""
    return mean(evidence.clamp(min=threshold))


def binarise(evidence: Tensor, threshold: float) -> Tensor:
    """mean(1 if e > threshold else 0): the share of patches whose vote exceeds the threshold."""
    return mean((evidence > threshold).to(evidence.dtype))


def clipped(evidence: Tensor) -> Tensor:
    """mean(tanh(0.05 e - 1)), with the constants of Clipped BagNet, so each vote is bounded."""
    return mean(squash(evidence))


def squash(evidence: Tensor) -> Tensor:
    """tanh(0.05 e - 1), elementwise: between -1 and 1."""
    return (0.05 * evidence - 1).tanh()


def sigmoid(evidence: Tensor) -> Tensor:
    """mean(1 / (1 + exp(-e))): as if every patch detected each class independently."""
    return mean(evidence.sigmoid())


def top_mean(evidence: Tensor, count: int) -> Tensor:
    """The mean of the `count` strongest entries of each class.

    Raises:
        ValueError: The map has fewer entries, or `count` is below 1.
    """
    entries = evidence.flatten(2)
    if not 1 <= count <= entries.shape[2]:
        raise ValueError(
            f"cannot take the {count} strongest entries: a map of these images has "
            f"{entries.shape[2]}, so choose from 1 to {entries.shape[2]}"
        )
    return entries.topk(count).values.mean(2)


def masked(evidence: Tensor, window: int) -> Tensor:
    """PatchGuard's robust masking: each class loses its strongest window of the map.

    With e+ = max(e, 0), the score is the sum of e+ over the map minus its largest sum over any
    window x window entries, divided by the number of entries (PatchGuard's algorithm 1 with the
    threshold T = 0).

    Args:
        evidence: Evidence in logits, (B, classes, H', W').
        window: Side of the mask, in entries, at least 1; `certificates.entries_touched` computes it
            from the side of an attack in pixels.
    """
    positive = evidence.clamp(min=0)
    strongest = window_sums(positive, window).amax((2, 3))
    return (positive.sum((2, 3)) - strongest) / (evidence.shape[2] * evidence.shape[3])


def window_sums(evidence: Tensor, window: int) -> Tensor:
    """Sum all windows of w x w entries: (..., H', W') -> (..., H' - w + 1, W' - w + 1).

    A window that is longer than a side of the map is cut to that side.

    Raises:
        ValueError: The window is smaller than one entry.
    """
    if window < 1:
        raise ValueError(f"a window of {window} entries masks nothing: it must be at least 1")
    size = min(window, evidence.shape[-2]), min(window, evidence.shape[-1])
    return F.avg_pool2d(evidence, size, stride=1, divisor_override=1)


PLAIN = {"mean": mean, "median": median, "tanh": clipped, "sigmoid": sigmoid}
WITH_THRESHOLD = {"clamp": clamp, "binarise": binarise}


def parse(text: str) -> Aggregation:
    """Find an aggregation: `median`, `clamp:0` (threshold in logits), `masked:6` (entries), ...

    Raises:
        ValueError: The name is unknown, or its number is missing or wrong.
    """
    name, _, number = text.partition(":")
    try:
        if name in PLAIN and not number:
            return PLAIN[name]
        if name in WITH_THRESHOLD:
            return partial(WITH_THRESHOLD[name], threshold=float(number))
        if name == "strongest":
            return partial(top_mean, count=int(number))
        if name == "masked":
            return partial(masked, window=int(number))
    except ValueError:
        pass
    raise ValueError(
        f"there is no aggregation {text!r}: choose from {', '.join(PLAIN)}, clamp:T, binarise:T "
        "(T in logits), strongest:N, masked:N (N in map entries)"
    )
