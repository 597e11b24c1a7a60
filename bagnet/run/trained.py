"""The checkpoint that a command means, its network, and the sizes of its images."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from bagnet.model.files import read_card
from bagnet.model.sources import find_run, find_weights
from datamodules.common.yaml_texts import read_yaml


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


def chosen_checkpoint(
    name: str | None,
    runs_dir: Path | None,
    weights: str | None,
    flag: str = "--model.weights",
) -> Path:
    """The checkpoint of a run, or else a file of weights.

    Args:
        name: Name of the run (`--name`).
        runs_dir: Folder of all runs; None for the default.
        weights: What stands for the file, see `find_weights`.
        flag: The flag of the weights, for the message.

    Raises:
        ValueError: Both are given or none, or there is no such run or file.
    """
    if weights is not None and name is None:
        return find_weights(weights)
    if name is not None and weights is None:
        return find_run(name, runs_dir)
    raise ValueError(f"give the network: either --name RUN, or {flag} FILE")


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
            data = read_yaml(config)["data"]
            sizes = int(data["image_size"]), int(data["resize_size"])
        except (ValueError, KeyError, TypeError):
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
