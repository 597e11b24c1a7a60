"""The options of the experiments in this folder. Imports nothing heavy."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from jsonargparse.typing import NonNegativeInt, PositiveInt

from bagnet.experiments.options import MeasureOptions


@dataclass(frozen=True, kw_only=True)
class HeatmapsOptions(MeasureOptions):
    """Options of `heatmaps`.

    Args:
        limit: Number of images, drawn at random.
        seed: Seed of this draw.
        samples: Sample ids of the images to show, instead of random ones.
        classes: Whose evidence to show: predicted, true, and ids, names or numbers of classes.
    """

    limit: PositiveInt = 4
    seed: NonNegativeInt = 0
    samples: list[NonNegativeInt] = field(default_factory=list)
    classes: list[str] = field(default_factory=lambda: ["predicted", "true"])


@dataclass(frozen=True, kw_only=True)
class PatchesOptions(MeasureOptions):
    """Options of `patches`.

    Args:
        patches: Patches in each row of a class.
        classes: Ids, names or numbers of the classes to show; by default the first eight.
        mistakes: Misclassified images in the picture of mistakes.
        other: Label of another network that `accuracy` has measured into the same --out, such as
            vgg16: only images that it misclassifies, too, are mistakes to show.
    """

    patches: PositiveInt = 7
    classes: list[str] = field(default_factory=list)
    mistakes: NonNegativeInt = 6
    other: str | None = None


@dataclass(frozen=True, kw_only=True)
class AggregationOptions(MeasureOptions):
    """Options of `aggregation`.

    Args:
        thresholds: Thresholds in logits; by default -20 to 60 in steps of 5.
        attacks: Sides of the attacked squares, in pixels.
    """

    thresholds: list[float] = field(default_factory=list)
    attacks: list[PositiveInt] = field(default_factory=lambda: [23, 32, 39])


@dataclass(frozen=True, kw_only=True)
class LocalizationOptions(MeasureOptions):
    """Options of `localization`.

    Args:
        masks: Folder of masks, named as the validation images.
    """

    masks: Path | None = None


@dataclass(frozen=True, kw_only=True)
class WordsOptions(MeasureOptions):
    """Options of `words`.

    Args:
        words: Numbers of words; the pictures show the words of the first.
        seed: Seed of the patches that are clustered.
        classes: Ids, names or numbers of the classes whose words to show; by default the first
            eight.
    """

    words: list[PositiveInt] = field(default_factory=lambda: [64, 16, 256])
    seed: NonNegativeInt = 0
    classes: list[str] = field(default_factory=list)
