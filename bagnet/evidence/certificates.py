"""Which decisions no attack on a square of a given size can change, proved from one evidence map.

The attacker replaces a square of p x p pixels, anywhere in the image and by anything. An entry of
the map sees R x R pixels and its neighbours are S pixels apart, so along each side the square meets
at most ceil((p + R - 1) / S) entries in a row: entry i sees the pixels S i, ..., S i + R - 1 and
meets a square that starts at x if x - R < S i < x + p, which leaves p + R - 1 whole numbers. All
other entries keep their evidence exactly. The proofs below let the attacker choose the evidence of
that window of entries freely for every class, so they also cover one who can only choose the
pixels.

An image is certified if it is classified as its label and stays so under every such attack. Neither
bound can be tighter without knowing more about the attacker: some choice of evidence reaches each.
"""

from __future__ import annotations

from itertools import product

import torch
from torch import Tensor
from torch.nn import functional as F

from bagnet.evidence.aggregation import squash, window_sums
from bagnet.model.network import BagNet


def entries_touched(model: BagNet, pixels: int) -> int:
    """The most map entries in a row that an attack on a square of `pixels` x `pixels` can change.

    Raises:
        ValueError: The square has no pixels.
    """
    if pixels < 1:
        raise ValueError(f"an attack on {pixels} pixels changes nothing: give its side, at least 1")
    return -(-(pixels + model.receptive_field - 1) // model.stride)


def certify_clipped(evidence: Tensor, labels: Tensor, window: int) -> Tensor:
    """Find the images that `aggregation.clipped` classifies as their labels under any attack.

    With f = tanh(0.05 e - 1), a window W of n entries adds between -n and n to each class. So the
    label y wins if, for every W and every other class c,

        sum of f_y outside W - n  >  sum of f_c outside W + n.

    Args:
        evidence: Evidence of the images without attack, in logits, (B, classes, H', W').
        labels: True classes, int64 (B,).
        window: Side of the attacked window, in entries; smaller maps are attacked as a whole.

    Returns:
        Whether each image is certified, bool (B,).

    Raises:
        ValueError: The window is smaller than one entry.
    """
    votes = squash(evidence.double())
    entries = min(window, votes.shape[2]) * min(window, votes.shape[3])
    own, others = _split(_outside(votes, window), labels)
    return (own - entries > others + entries).all(2).all(1)


def certify_masked(evidence: Tensor, labels: Tensor, window: int) -> Tensor:
    """Find the images that `aggregation.masked` classifies as their labels under any attack.

    Let e+ = max(e, 0), let W be the attacked window and let the mask be as large as W. The score of
    a class is the smallest sum of e+ outside any window M. For the label, an attack can only lower
    e+ in W, at most to zero:

        score_y >= min over M of the sum of e_y+ outside W and M.

    For any other class c, M = W is one of the masks, so whatever is in W does not count:

        score_c <= the sum of e_c+ outside W.

    The label wins if the first bound exceeds the second for every W and c (PatchGuard's algorithm 2
    with T = 0). Takes, returns and raises the same as `certify_clipped`.
    """
    positive = evidence.clamp(min=0).double()
    own, _ = _split(positive, labels)
    _, others = _split(_outside(positive, window), labels)
    lowest = torch.empty_like(others)
    for row, column in product(*map(range, others.shape[1:])):
        rest = own.clone()
        rest[:, row : row + window, column : column + window] = 0
        masked = window_sums(rest, window).amax((1, 2))
        lowest[:, row, column] = rest.sum((1, 2)) - masked
    return (lowest > others).all(2).all(1)


def _outside(evidence: Tensor, window: int) -> Tensor:
    """Sum what is outside each window: (B, classes, H', W') -> (B, classes, h, w)."""
    return evidence.sum((2, 3))[..., None, None] - window_sums(evidence, window)


def _split(sums: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """The sums of the label and the largest of all others: (B, classes, h, w) -> 2 (B, h, w)."""
    is_label = F.one_hot(labels, sums.shape[1]).bool()
    return sums[is_label], sums.masked_fill(is_label[..., None, None], -torch.inf).amax(1)
