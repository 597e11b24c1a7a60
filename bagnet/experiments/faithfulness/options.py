"""The options of the experiments in this folder. Imports nothing heavy."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal, get_args

from jsonargparse.typing import NonNegativeInt, PositiveInt

from bagnet.experiments.options import Fill, MeasureOptions

Pooling = Literal["mean", "absolute", "max"]
Method = Literal[
    "evidence",
    "pixel_evidence",
    "saliency",
    "gradient_x_input",
    "deeplift",
    "integrated_gradients",
    "smoothgrad",
    "gradcam",
    "random",
]
METHODS: tuple[Method, ...] = get_args(Method)


@dataclass(frozen=True, kw_only=True)
class AttributionOptions(MeasureOptions):
    """What all experiments here share.

    Args:
        methods: What says how important each pixel is; by default all for `sensitivity`, all that
            each network has for `single_deletion`, and evidence and random for `deletion`.
        fill: What masked cells become: their own mean colour, that of the image, that of ImageNet
            (zero), or a blurred image.
        pooling: How the importance of a cell's pixels becomes one number.
        seed: Seed of `random` and `smoothgrad`.
        integration_steps: Steps of `integrated_gradients`; the paper's software takes 100.
    """

    methods: list[Method] = field(default_factory=list)
    fill: Fill = "zero"
    pooling: Pooling = "mean"
    seed: NonNegativeInt = 0
    integration_steps: PositiveInt = 32


@dataclass(frozen=True, kw_only=True)
class SingleDeletionOptions(AttributionOptions):
    """Options of `single_deletion`.

    Args:
        grid: Cells in a row and in a column.
    """

    grid: PositiveInt = 4


@dataclass(frozen=True, kw_only=True)
class MaskingOptions(AttributionOptions):
    """What `sensitivity` and `deletion` share.

    Args:
        cell: Side of a cell, in pixels.
    """

    cell: PositiveInt = 8


@dataclass(frozen=True, kw_only=True)
class SensitivityOptions(MaskingOptions):
    """Options of `sensitivity`.

    Args:
        explainer: Labels of the BagNets among --models whose evidence is used.
        counts: Numbers of masked cells; by default 1 to 100, or as many as the image has.
    """

    explainer: list[str] = field(default_factory=list)
    counts: list[NonNegativeInt] = field(default_factory=list)


@dataclass(frozen=True, kw_only=True)
class DeletionOptions(MaskingOptions):
    """Options of `deletion`.

    Args:
        steps: Points of each curve between the whole image and none of it.
    """

    steps: PositiveInt = 16
