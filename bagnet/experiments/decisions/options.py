"""The options of the experiments in this folder. Imports nothing heavy."""

from __future__ import annotations

from dataclasses import dataclass, field

from jsonargparse.typing import NonNegativeInt, PositiveInt

from bagnet.experiments.options import Fill, MeasureOptions


@dataclass(frozen=True, kw_only=True)
class ScramblingOptions(MeasureOptions):
    """Options of `scrambling`.

    Args:
        tiles: Tiles in a row; by default those of 2, 4, 7, 8, 14 and 16 that divide the image.
        seed: Seed of the tiles' order and of the textures' start.
        texture_network: Weights of a VGG that textures are made with, as LABEL=FILE.
        layers: Layers whose Gram matrices are compared.
        steps: Steps of the synthesis.
    """

    tiles: list[PositiveInt] = field(default_factory=list)
    seed: NonNegativeInt = 0
    texture_network: str | None = None
    layers: list[str] = field(
        default_factory=lambda: ["conv1_1", "pool1", "pool2", "pool3", "pool4"]
    )
    steps: PositiveInt = 500


@dataclass(frozen=True, kw_only=True)
class InteractionsOptions(MeasureOptions):
    """Options of `interactions`.

    Args:
        sides: Sides of the grids' squares, in pixels; by default those of 8, 16, 32 and 64 that
            fit.
        fill: What squares are replaced by: their own mean colour, that of the image, that of
            ImageNet (zero), or a blurred image.
        gaps: Gaps between the squares of a pair, in pixels; by default those up to 128 that fit.
        pair_side: Side of the squares of a pair, in pixels.
        pairs: Places of a pair for each gap.
        seed: Seed of these places.
    """

    sides: list[PositiveInt] = field(default_factory=list)
    fill: Fill = "mean"
    gaps: list[NonNegativeInt] = field(default_factory=list)
    pair_side: PositiveInt = 16
    pairs: PositiveInt = 4
    seed: NonNegativeInt = 0


@dataclass(frozen=True, kw_only=True)
class ErrorsOptions(MeasureOptions):
    """Options of `errors`.

    Args:
        top: A prediction is right if the true class is among the first so many.
        differing: Classes to list for each pair of networks.
    """

    top: PositiveInt = 5
    differing: PositiveInt = 5
