"""What a report shows of an image: which classes, which patches, and what a threshold changes."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from bagnet.evidence.maps import evaluating, evidence_map
from bagnet.model.network import BagNet
from bagnet.model.registry import normalize

TOP_CLASSES = 10  # of the image, always in the list
PATCH_CLASSES = 5  # of each patch
MAX_MAPS = 80  # classes of an image whose evidence the page holds
MAX_THRESHOLDS = 40  # each may add a class whose evidence must be there, so fewer than maps


@dataclass(frozen=True)
class Picture:
    """An image and all votes on it.

    Attributes:
        name: What it is called on the page.
        label: Its true class, or None.
        pixels: What the network saw, uint8 (3, H, W).
        logits: Of the image, from the network's own forward pass, float32 (classes,).
        evidence: Of the patches, in logits, float32 (classes, H', W').
    """

    name: str
    label: int | None
    pixels: Tensor
    logits: Tensor
    evidence: Tensor

    @property
    def predicted(self) -> int:
        return int(self.logits.argmax())


def look(model: BagNet, pixels: Tensor, name: str, label: int | None) -> Picture:
    """Let the network see an image, uint8 (3, H, W).

    It goes through the network twice: that both ways to the logits agree is worth seeing on the
    page.

    Raises:
        ValueError: The image is smaller than the patch.
    """
    images = normalize(pixels[None])
    evidence = evidence_map(model, images)[0]
    with evaluating(model):
        logits = model(images)[0]
    if not logits.isfinite().all():
        raise ValueError(
            f"the network's logits for {name} are not finite: its weights are damaged, or its "
            "training diverged"
        )
    return Picture(name, label, pixels, logits, evidence)


def thresholds(evidence: Tensor) -> np.ndarray:
    """Thresholds worth trying, float32, ascending: round numbers (logits) from 0 to the strongest vote.

    None is negative: a class that every patch votes against would come to 0, which is more than a
    class with a weak vote against it.

    Args:
        evidence: Logits of the patches, (classes, H', W').
    """
    strongest = float(evidence.max())
    if strongest <= 0:
        return np.zeros(1, np.float32)
    step = _round_up(strongest / MAX_THRESHOLDS)
    return (np.arange(math.floor(strongest / step) + 1) * step).astype(np.float32)


def decisions(evidence: Tensor, steps: np.ndarray) -> list[int]:
    """The class with the most evidence, over all classes, if votes below a threshold count as 0.

    The score of a class is the mean over all patches of v [v >= t], with v the patch's evidence.
    At t = 0 that is the evidence clipped below 0, as in the paper's appendix.

    Args:
        evidence: Logits of the patches, (classes, H', W').
        steps: The thresholds t, in logits.

    Returns:
        The class for each threshold; -1 where no vote reaches it.
    """
    votes = evidence.flatten(1)
    classes = []
    for threshold in steps.tolist():
        counted = votes >= threshold
        scores = torch.where(counted, votes, 0).sum(1, dtype=torch.float64)
        classes.append(int(scores.argmax()) if counted.any() else -1)
    return classes


def shown_classes(picture: Picture, decided: Sequence[int]) -> list[int]:
    """The classes whose evidence a page holds, at most ``MAX_MAPS``; the most important ones first.

    They are the image's top classes, its true class, every class that a threshold makes the
    predicted one, and those that most patches vote for. With few classes they are all of them.
    """
    order = picture.logits.argsort(descending=True, stable=True).tolist()
    top_votes = Counter(picture.evidence.argmax(0).flatten().tolist())
    wanted = [
        *order[:TOP_CLASSES],
        *([] if picture.label is None else [picture.label]),
        *(decision for decision in decided if decision >= 0),
        *(each for each, _ in top_votes.most_common()),
        *order,
    ]
    return list(dict.fromkeys(wanted))[:MAX_MAPS]


def patch_classes(evidence: Tensor) -> tuple[Tensor, Tensor]:
    """The classes with the most evidence in each patch.

    Args:
        evidence: Logits of the patches, (classes, H', W').

    Returns:
        Logits in descending order, and their classes: both (H', W', PATCH_CLASSES), or as many as
        there are classes.
    """
    count = min(PATCH_CLASSES, len(evidence))
    logits, classes = evidence.permute(1, 2, 0).topk(count)
    return logits, classes


def _round_up(value: float) -> float:
    """The next number of the series 1, 2, 5, 10, ..."""
    power = 10.0 ** math.floor(math.log10(value))
    return next(digit * power for digit in (1, 2, 5, 10) if digit * power >= value * (1 - 1e-9))
