"""The options that experiments share, which flags are made from. Imports nothing heavy."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from jsonargparse.typing import NonNegativeInt, PositiveInt

from datamodules.processes.children import default_workers

Fill = Literal["mean", "image", "zero", "blur"]


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
    """What every experiment that measures images takes.

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


@dataclass(frozen=True)
class ReportOptions:
    """Options of `report`.

    Args:
        out: Folder of all results.
    """

    out: Path
