"""What a report shows of an image: votes, the classes that matter, and what a threshold changes."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from bagnet.evidence.maps import evaluating, evidence_map
from bagnet.evidence.pictures.plots import colour_limit
from bagnet.evidence.report.dense import DenseMaps
from bagnet.model.network import BagNet
from bagnet.model.registry import normalize
from bagnet.training.metrics import rank_of_label

TOP_CLASSES = 10  # of an image, always listed
PATCH_CLASSES = 5  # of a patch
MAX_MAPS = 80  # classes of an image whose evidence the report holds
MAX_THRESHOLDS = 40  # fewer than maps, because each may add a class whose map is needed


@dataclass(frozen=True)
class ImageVotes:
    """An image and the votes of all its patches.

    Attributes:
        name: Name of the image in the report.
        label: True class, or None if it is not known.
        pixels: What the network saw, uint8 (3, H, W).
        logits: Logits of the image, from the network's own forward pass, float32 (classes,).
        evidence: Evidence of the patches, in logits, float32 (classes, H', W').
        dense: The evidence around every pixel, if the report shows it.
    """

    name: str
    label: int | None
    pixels: Tensor
    logits: Tensor
    evidence: Tensor
    dense: DenseMaps | None = None

    @property
    def ranking(self) -> list[int]:
        """All classes in the order of their ranks (`rank_of_label`), the predicted one first."""
        count = len(self.logits)
        ranks = rank_of_label(self.logits.expand(count, -1), torch.arange(count))
        return ranks.argsort().tolist()

    @property
    def predicted(self) -> int:
        return self.ranking[0]

    @property
    def judged(self) -> list[int]:
        """The predicted class, and the true one if it is another."""
        classes = [self.predicted] if self.label is None else [self.predicted, self.label]
        return list(dict.fromkeys(classes))

    @property
    def limit(self) -> float:
        """Where the colours end, in logits: one scale for all classes, so weak evidence shows."""
        return colour_limit(self.evidence[self.judged].numpy())


def compute_votes(model: BagNet, pixels: Tensor, name: str, label: int | None) -> ImageVotes:
    """Run the network on an image, uint8 (3, H, W).

    It runs twice, for the evidence and for the logits, so that the report can show that they agree.

    Raises:
        ValueError: The image is smaller than the patch, or the logits are not finite.
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
    return ImageVotes(name, label, pixels, logits, evidence)


def thresholds(evidence: Tensor) -> np.ndarray:
    """Choose thresholds to offer: round numbers from 0 to the strongest vote.

    None is negative: a class that every patch votes against would score 0, more than a class with a
    weak vote against it. They are float32, in logits, ascending.
    """
    strongest = float(evidence.max())
    if strongest <= 0:
        return np.zeros(1, np.float32)
    step = _round_up(strongest / MAX_THRESHOLDS)
    return (np.arange(math.floor(strongest / step) + 1) * step).astype(np.float32)


def decisions(evidence: Tensor, steps: np.ndarray) -> list[int]:
    """Find the class with the most evidence if votes below a threshold count as 0.

    The score of a class is the mean over all patches of v [v >= t], where v is the patch's
    evidence. At t = 0 that is the evidence clipped at 0, as in the paper's appendix.

    Returns:
        The class for each threshold, or -1 if no vote reaches it.
    """
    votes = evidence.flatten(1)
    classes = []
    for threshold in steps.tolist():
        counted = votes >= threshold
        scores = torch.where(counted, votes, 0).sum(1, dtype=torch.float64)
        classes.append(int(scores.argmax()) if counted.any() else -1)
    return classes


def shown_classes(image: ImageVotes, decided: Sequence[int]) -> list[int]:
    """Choose the classes whose evidence a report holds, most important first, at most `MAX_MAPS`.

    They are the image's top classes, its true class, every class that is predicted with a threshold
    (`decided`), and those that most patches vote for. If there are few classes, they are all of
    them.
    """
    order = image.ranking
    top_votes = Counter(image.evidence.argmax(0).flatten().tolist())
    wanted = [
        *order[:TOP_CLASSES],
        *([] if image.label is None else [image.label]),
        *(decision for decision in decided if decision >= 0),
        *(each for each, _ in top_votes.most_common()),
        *order,
    ]
    return list(dict.fromkeys(wanted))[:MAX_MAPS]


def _round_up(value: float) -> float:
    """The next number of the series 1, 2, 5, 10, ..."""
    power = 10.0 ** math.floor(math.log10(value))
    return next(digit * power for digit in (1, 2, 5, 10) if digit * power >= value * (1 - 1e-9))
