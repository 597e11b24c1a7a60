"""The options of each command, which its flags are made from. Imports nothing heavy."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path


@dataclass(frozen=True)
class DataOptions:
    """What the network sees of an image, as in validation.

    Args:
        image_size: Side of the centre crop, in pixels; by default that of the run, or 224.
        resize_size: Shorter side before the crop, in pixels; by default that of the run, or 256.
    """

    image_size: int | None = None
    resize_size: int | None = None


@dataclass(frozen=True)
class ModelOptions:
    """The network.

    Args:
        name: Name of the network, such as bagnet33, if the checkpoint does not say it.
    """

    name: str | None = None


@dataclass(frozen=True, kw_only=True)
class ReportOptions:
    """Options of `report`.

    Args:
        images: Folder of images or of class folders with images, or one image.
        checkpoint: Weights of a BagNet: a file, a run, a URL, or a name such as bagnet33.
        name: Name of a run, instead of --checkpoint.
        out: The file to write.
        classes: List of the network's classes, in the order of its outputs: packed data,
            imagenet_class_index.json, or a text with a line `name` or `id<TAB>name` for each class.
            By default, the classes of the run's data.
        dense: Also show the evidence around every pixel, for the predicted and the true class; on a
            CPU, that takes seconds for each image.
        whole: Show whole images: resize them without the crop.
        data: What the network sees of an image.
        model: The network.
    """

    images: Path
    checkpoint: str | None = None
    name: str | None = None
    out: Path = Path("report.html")
    classes: Path | None = None
    dense: bool = False
    whole: bool = False
    data: DataOptions = field(default_factory=DataOptions)
    model: ModelOptions = field(default_factory=ModelOptions)
