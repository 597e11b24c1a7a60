"""The checkpoint that a run's name stands for, its network, and the sizes of its images."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import yaml

from bagnet.model.files import read_card
from bagnet.run.folder import Run
from datamodules.common.files import user_path


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


IMAGENET = Sizes(224, 256)
"""The sizes where nothing says others."""


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
    # A folder of images may have the name of a run.
    folders = [folder for folder in (path, runs / path) if folder.is_dir()]
    for folder in folders:
        run = Run(folder.resolve().name, folder.resolve().parent)
        if run.weights.is_file():
            return folder / run.weights.relative_to(run.folder)
    if folders:
        raise ValueError(f"{folders[-1]} has no checkpoint: give the folder of a run, or a file")
    raise ValueError(
        f"there is neither a file {path} nor a run {runs / path}: give the path of a checkpoint, "
        "or the name of a run"
    )


def chosen_checkpoint(name: str | None, runs_dir: Path | None, weights: str | Path | None) -> Path:
    """The checkpoint of a run, or else a file of weights.

    Args:
        name: Name of the run (`--name`).
        runs_dir: Folder of all runs; None for the default.
        weights: The file, see `find_checkpoint` (`--model.weights`).

    Raises:
        ValueError: Both are given or none, or as in `find_checkpoint`.
    """
    if weights is not None and name is None:
        return find_checkpoint(weights)
    if name is not None and weights is None:
        return find_checkpoint(runs_dir / name if runs_dir else name)
    raise ValueError("give the network: either --name RUN, or --model.weights FILE")


def network_name(checkpoint: Path, name: str | None) -> str:
    """The name of a checkpoint's network: the given one, or else the one that the file says.

    Raises:
        ValueError: Neither is known, or it is not a file of weights.
    """
    known = name or read_card(checkpoint).name
    if known is None:
        raise ValueError(
            f"{checkpoint} does not say which network it is for: add its name, such as "
            "--model.name bagnet33"
        )
    return known


def sizes_of_checkpoint(checkpoint: Path) -> Sizes | None:
    """The sizes that a file of weights names; None if it names none.

    Checkpoints of versions before 0.3 do not: then those in the run's configuration.

    Raises:
        ValueError: It is not a file of weights.
    """
    card = read_card(checkpoint)
    sizes = card.image_size, card.resize_size
    config = checkpoint.absolute().parent.parent / "config.yaml"
    if None in sizes and checkpoint.absolute().parent.name == "checkpoints" and config.is_file():
        try:
            data = yaml.safe_load(config.read_text(encoding="utf-8"))["data"]
            sizes = int(data["image_size"]), int(data["resize_size"])
        except (yaml.YAMLError, ValueError, KeyError, TypeError):
            return None  # not a run's
    side, shorter = sizes
    return None if side is None or shorter is None else Sizes(side, shorter)


def choose_sizes(
    image_size: int | None, resize_size: int | None, checkpoints: Sequence[Path]
) -> Sizes:
    """The sizes that were asked for, or else those of the runs whose checkpoints these are.

    Raises:
        ValueError: The runs have different sizes, and none was asked for.
    """
    trained: dict[Sizes, Path] = {}
    for checkpoint in checkpoints:
        if sizes := sizes_of_checkpoint(checkpoint):
            trained[sizes] = checkpoint
    if len(trained) > 1 and (image_size is None or resize_size is None):
        (a, first), (b, second), *_ = trained.items()
        raise ValueError(
            f"{first} was trained for images of {a}, and {second} for {b}: give "
            "--data.image_size and --data.resize_size"
        )
    known = next(iter(trained), IMAGENET)
    return Sizes(
        known.image_size if image_size is None else image_size,
        known.resize_size if resize_size is None else resize_size,
    )
