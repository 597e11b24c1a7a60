"""The options of each experiment, which its flags are made from. Imports nothing heavy."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, get_args

from jsonargparse.typing import NonNegativeInt, PositiveInt

from datamodules.common.processes import default_workers

Fill = Literal["mean", "image", "zero", "blur"]
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


@dataclass(frozen=True)
class DataOptions:
    """The validation images to measure.

    Args:
        root: Folder of packed data; its validation split is used.
        batch_size: Images at once.
        workers: Processes that decode, for each process that measures; 0 decodes in that process.
        image_size: Side of the centre crop, in pixels; by default that of the models' runs, or 224.
        resize_size: Shorter side before the crop, in pixels; by default that of the models' runs,
            or 256.
    """

    root: str | None = None
    batch_size: PositiveInt = 64
    workers: NonNegativeInt = field(default_factory=default_workers)
    image_size: PositiveInt | None = None
    resize_size: PositiveInt | None = None


@dataclass(frozen=True, kw_only=True)
class MeasureOptions:
    """What every experiment that measures images takes, and all that `accuracy` takes.

    Args:
        models: Networks to measure: runs, by name or folder; names of published weights, such as
            bagnet33 and resnet50; or LABEL=FILE, also with a URL or a run. Without --models, the
            results in --out are drawn again.
        data: The images.
        out: Folder of all results; each experiment has its own folder in it.
        limit: Measure so many images, spread over the split; by default all.
        gpus: Number of GPUs, 0 for the CPU; by default all there are.
        processes: Number of processes on the CPU.
        wandb: Also log the results to W&B.
    """

    models: list[str] = field(default_factory=list)
    data: DataOptions = field(default_factory=DataOptions)
    out: Path
    limit: PositiveInt | None = None
    gpus: NonNegativeInt | None = None
    processes: PositiveInt = 1
    wandb: bool = False


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
        classes: Names of the classes to show; by default the first eight.
        mistakes: Misclassified images in the picture of mistakes.
        other: Label of another network that `accuracy` has measured into the same --out, such as
            vgg16: only images that it misclassifies, too, are mistakes to show.
    """

    patches: PositiveInt = 7
    classes: list[str] = field(default_factory=list)
    mistakes: NonNegativeInt = 6
    other: str | None = None


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


@dataclass(frozen=True, kw_only=True)
class MaskingOptions(MeasureOptions):
    """What `sensitivity` and `deletion` share.

    Args:
        methods: What ranks the cells; by default all for `sensitivity`, and evidence and random for
            `deletion`.
        cell: Side of a cell, in pixels.
        fill: What masked cells become: their own mean colour, that of the image, that of ImageNet
            (zero), or a blurred image.
        pooling: How the importance of a cell's pixels becomes one number.
        seed: Seed of `random` and `smoothgrad`.
        integration_steps: Steps of `integrated_gradients`; the paper's software takes 100.
    """

    methods: list[Method] = field(default_factory=list)
    cell: PositiveInt = 8
    fill: Fill = "zero"
    pooling: Pooling = "mean"
    seed: NonNegativeInt = 0
    integration_steps: PositiveInt = 32


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


@dataclass(frozen=True, kw_only=True)
class AggregationOptions(MeasureOptions):
    """Options of `aggregation`.

    Args:
        thresholds: Thresholds in logits; by default -20 to 60 in steps of 5.
        attacks: Sides of the attacked squares, in pixels.
    """

    thresholds: list[float] = field(default_factory=list)
    attacks: list[PositiveInt] = field(default_factory=lambda: [23, 32, 39])


@dataclass(frozen=True)
class ReportOptions:
    """Options of `report`.

    Args:
        out: Folder of all results.
    """

    out: Path


EXPERIMENTS: dict[str, type] = {
    "accuracy": MeasureOptions,
    "heatmaps": HeatmapsOptions,
    "patches": PatchesOptions,
    "scrambling": ScramblingOptions,
    "interactions": InteractionsOptions,
    "errors": ErrorsOptions,
    "sensitivity": SensitivityOptions,
    "deletion": DeletionOptions,
    "aggregation": AggregationOptions,
    "pointing": MeasureOptions,
    "corruptions": MeasureOptions,
}
"""Those of the paper, in the order of their reports, and then the others."""
