"""Scores of a map: how well it agrees with a mask, and how sparse it is."""

from __future__ import annotations

import numpy as np
import torch
from scipy.stats import rankdata
from torchmetrics.functional.classification import binary_average_precision

SMALL = 0.5  # logits


def points(evidence: np.ndarray, near: np.ndarray) -> bool:
    """Whether the strongest evidence, float (H, W), is where it should be, bool (H, W)."""
    return bool(near[evidence == evidence.max()].all())


def average_precision(evidence: np.ndarray, mask: np.ndarray) -> float:
    """Average precision of the pixels of a map, float (H, W), in a mask, bool (H, W), not empty."""
    # torchmetrics would squash other numbers than those from 0 to 1, which makes large ones equal.
    order = torch.from_numpy(rankdata(evidence).ravel() / evidence.size)
    return float(binary_average_precision(order, torch.from_numpy(mask.ravel()).long()))


def overlap(evidence: np.ndarray, mask: np.ndarray) -> float:
    """IoU of a mask, bool (H, W), and as many pixels with the strongest evidence, float (H, W).

    The mask is not empty. Pixels that tie at the end count in proportion.
    """
    area = int(mask.sum())
    threshold = np.partition(evidence, -area, axis=None)[-area]
    above, tied = evidence > threshold, evidence == threshold
    counted = (area - above.sum()) / tied.sum()  # of the tied ones
    hits = mask[above].sum() + counted * mask[tied].sum()
    return float(hits / (2 * area - hits))


def sparsity(votes: np.ndarray) -> tuple[float, float]:
    """The share of small votes, and that of all |evidence| that is in a tenth of the patches.

    Args:
        votes: The votes of all patches for a class, in logits, float (H', W').
    """
    strength = np.sort(np.abs(votes), axis=None)[::-1]
    tenth = strength[: -(-len(strength) // 10)]
    return float((strength < SMALL).mean()), float(tenth.sum() / (strength.sum() or 1))
