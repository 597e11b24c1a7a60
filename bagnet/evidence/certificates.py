"""Which decisions no patch attack of a given size can change, proved from one evidence map.

The attacker replaces a square of p x p pixels, anywhere in the image and by anything. An entry of the map sees R x R pixels
and its neighbours are S pixels apart, so along each side the square meets at most ceil((p + R - 1) / S) entries in a row:
entry i sees the pixels S i, ..., S i + R - 1 and is met by a square from x on if x - R < S i < x + p, which are p + R - 1
whole numbers. All other entries keep their evidence, exactly. What is proved here holds for an attacker who may choose the
evidence of a window of so many entries freely for every class, hence for the one who only chooses its pixels.

An image is certified if it is classified as its label, and stays so under every such attack. Neither bound can be made
tighter without knowing more of the attacker: each is reached by some choice of evidence.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from bagnet.evidence.aggregation import squash, window_sums
from bagnet.model.network import BagNet


def entries_touched(model: BagNet, pixels: int) -> int:
    """How many map entries in a row an attack on a square of ``pixels`` x ``pixels`` can change at most.

    Raises:
        ValueError: There is no such square.
    """
    if pixels < 1:
        raise ValueError(f"an attack on {pixels} pixels changes nothing: give its side, at least 1")
    return -(-(pixels + model.receptive_field - 1) // model.stride)


def certify_clipped(evidence: Tensor, labels: Tensor, window: int) -> Tensor:
    """Which images `aggregation.clipped` classifies as their labels whatever fills a window (Clipped BagNet).

    With f = tanh(0.05 e - 1), a window W of n entries holds for each class a sum between -n and n. So the label y wins if,
    for every W and every other class c,

        sum of f_y outside W - n  >  sum of f_c outside W + n.

    Args:
        evidence: Of the images as they are, (B, classes, H', W').
        labels: True classes, int64 (B,).
        window: Side of the attacked window, in entries; a map that is smaller is attacked as a whole.

    Returns:
        Bool (B,).

    Raises:
        ValueError: The window has no entry.
    """
    votes = squash(evidence.double())
    outside = votes.sum((2, 3))[..., None, None] - window_sums(votes, window)
    entries = min(window, votes.shape[2]) * min(window, votes.shape[3])
    lowest = _of_label(outside, labels) - entries
    return (lowest > _strongest_other(outside, labels) + entries).all(2).all(1)


def certify_masked(evidence: Tensor, labels: Tensor, window: int) -> Tensor:
    """Which images `aggregation.masked` classifies as their labels whatever fills a window (PatchGuard).

    Let e+ = max(e, 0), W the attacked window, and the mask as large as W. A class scores the smallest sum that e+ has
    outside any window M. For the label, an attack can but lower e+ in W, at the most to zero:

        score_y >= min over M of the sum of e_y+ outside W and M.

    For any other class c, M = W is one of the masks, so whatever is in W does not count:

        score_c <= the sum of e_c+ outside W.

    The label wins if the first is larger than the second for every W and c (the paper's algorithm 2 with T = 0).

    Args:
        evidence: As for `certify_clipped`.
        labels: As for `certify_clipped`.
        window: Side of the attacked window and of the mask, in entries.

    Returns:
        Bool (B,).

    Raises:
        ValueError: The window has no entry.
    """
    positive = evidence.clamp(min=0).double()
    outside = positive.sum((2, 3))[..., None, None] - window_sums(positive, window)
    own = _of_label(positive, labels)
    size = min(window, own.shape[1]), min(window, own.shape[2])
    lowest = torch.stack(
        [
            _masked_at(own, row, column, size)
            for row in range(outside.shape[2])
            for column in range(outside.shape[3])
        ],
        dim=1,
    ).unflatten(1, outside.shape[2:])
    return (lowest > _strongest_other(outside, labels)).all(2).all(1)


def _masked_at(own: Tensor, row: int, column: int, size: tuple[int, int]) -> Tensor:
    """Score (B,) of the label's positive evidence (B, H', W') when the window at (row, column) holds none."""
    rest = own.clone()
    rest[:, row : row + size[0], column : column + size[1]] = 0
    strongest = F.avg_pool2d(rest, size, stride=1, divisor_override=1).amax((1, 2))
    return rest.sum((1, 2)) - strongest


def _of_label(maps: Tensor, labels: Tensor) -> Tensor:
    """(B, classes, h, w) -> (B, h, w)."""
    return maps[torch.arange(len(labels), device=labels.device), labels]


def _strongest_other(sums: Tensor, labels: Tensor) -> Tensor:
    """The largest over all classes but the label: (B, classes, h, w) -> (B, h, w)."""
    others = sums.clone()
    others[torch.arange(len(labels), device=labels.device), labels] = -torch.inf
    return others.amax(1)
