"""The checkpoint that a run's name stands for, and the images that the run was trained on."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from bagnet.run.folder import Run
from datamodules.common.files import user_path
from datamodules.shards.manifest import MANIFEST

IMAGENET = (224, 256)
"""Side of the crop and shorter side before it, where nothing says another size."""


@dataclass(frozen=True)
class Sizes:
    """What a network sees of an image in validation.

    Attributes:
        image_size: Side of the centre crop, in pixels.
        resize_size: Shorter side before the crop, in pixels.
    """

    image_size: int
    resize_size: int

    def __str__(self) -> str:
        return f"{self.image_size} px, cut from {self.resize_size} px"


def find_checkpoint(text: str | Path) -> Path:
    """The file that a user means: a file, the folder of a run, or the name of a run.

    A run stands for its best checkpoint, or its last one if it has no validation. Runs are in the
    folder that `BAGNET_RUNS` names, or else in `runs`.

    Raises:
        ValueError: There is no such file or run, or the run has no checkpoint.
    """
    path = user_path(text)
    if path.is_file():
        return path
    runs = user_path(os.environ.get("BAGNET_RUNS") or "runs")
    for folder in (path, runs / path):
        if folder.is_dir():
            run = Run(folder.resolve().name, folder.resolve().parent)
            if run.weights.is_file():
                return folder / run.weights.relative_to(run.folder)
            raise ValueError(f"{folder} has no checkpoint: give the folder of a run, or a file")
    raise ValueError(
        f"there is neither a file {path} nor a run {runs / path}: give the path of a checkpoint, "
        "or the name of a run"
    )


def data_settings(checkpoint: Path) -> Mapping[str, Any]:
    """The settings `data.*` of the run whose checkpoint this is; empty for any other file."""
    file = checkpoint.absolute().parent.parent / "config.yaml"
    if checkpoint.absolute().parent.name != "checkpoints" or not file.is_file():
        return {}
    try:
        settings = yaml.safe_load(file.read_text(encoding="utf-8"))["data"]
    except (yaml.YAMLError, UnicodeDecodeError, KeyError, TypeError):
        return {}  # not a run's
    return settings if isinstance(settings, dict) else {}


def class_list(checkpoint: Path) -> Path | None:
    """The manifest with the classes of the run whose checkpoint this is, if it is still there."""
    root = data_settings(checkpoint).get("root")
    if root is None or "://" in str(root):
        return None
    manifest = user_path(str(root)) / "val" / MANIFEST
    return manifest if manifest.is_file() else None


def choose_sizes(
    image_size: int | None, resize_size: int | None, checkpoints: Sequence[Path]
) -> Sizes:
    """The sizes that were asked for, or else those of the runs whose checkpoints these are.

    Raises:
        ValueError: The runs have different sizes, and none was asked for.
    """
    trained: dict[tuple[int, int], Path] = {}
    for checkpoint in checkpoints:
        settings = data_settings(checkpoint)
        if "image_size" in settings and "resize_size" in settings:
            trained[int(settings["image_size"]), int(settings["resize_size"])] = checkpoint
    if len(trained) > 1 and (image_size is None or resize_size is None):
        (a, first), (b, second), *_ = trained.items()
        raise ValueError(
            f"{first} was trained for images of {Sizes(*a)}, and {second} for {Sizes(*b)}: give "
            "--data.image_size and --data.resize_size"
        )
    known = next(iter(trained), IMAGENET)
    return Sizes(
        known[0] if image_size is None else image_size,
        known[1] if resize_size is None else resize_size,
    )
