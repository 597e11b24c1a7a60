"""The commands that write, each with what it finds on its disk."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from PIL import Image

from tests.soak.commands import Command, run

_SIZES = ("--data.image_size", "32", "--data.resize_size", "32")
TRAIN = (
    *("train", "--patch", "9", "--gpus", "0", "--model.width", "4", *_SIZES),
    *("--data.batch_size", "12", "--data.workers", "0", "--trainer.enable_progress_bar", "false"),
    *("--name", "x", "--resume", "auto"),
)


@dataclass(frozen=True)
class Writer:
    """A command that writes to a disk.

    Args:
        what: What it writes.
        command: The command.
        earlier: One that has written to the disk before, with success.
        variables: Of its environment.
        link: A path that leads to the disk, which is only a part of where the command writes.
        survives: Whether the command promises its other results if the disk fails.
    """

    what: str
    command: Command
    earlier: Command = ()
    variables: Mapping[str, str] = field(default_factory=dict)
    link: Path | None = None
    survives: bool = False


def writers(folder: Path, disk: Path, url: str) -> list[Writer]:
    """All of them. Makes the images, the data and the trained network that they read.

    Args:
        folder: For what they read, and where they run; a server has `folder / "served"` at `url`.
        disk: Where they write.
        url: Serves the data.
    """
    for name in ("few", "many"):
        _draw(folder / "work" / name, {"train": 6, "val": 2} if name == "few" else {"train": 30})
    data, network = folder / "served" / "data", ("--name=x", "--runs_dir=trained")
    commands: list[Command] = [
        ("demo", str(data), "--train", "60", "--val", "24"),
        (*TRAIN, "--data.root", str(data), "--runs_dir", "trained", "--trainer.max_epochs", "1"),
    ]
    for command in commands:
        ended = run(command, folder / "work")
        assert ended.code == 0, ended.said

    def training(epochs: int, *more: str, root: str = str(data)) -> Command:
        return (*TRAIN, "--data.root", root, "--trainer.max_epochs", str(epochs), *more)

    def predict(images: str) -> Command:
        return ("train", "predict", images, *network, "--out", f"{disk}/x.csv")

    def report(images: str) -> Command:
        return ("evidence", "report", images, "--name=trained/x", "--out", f"{disk}/x.html")

    def pointing(limit: int) -> Command:
        words = ("--models", f"net{limit}=trained/x", "--data.root", str(data), "--gpus", "0")
        return ("experiments", "pointing", *words, "--data.workers=0", "--out", f"{disk}/results")

    def export(name: str, kind: str) -> Command:
        return ("train", "export", *network, "--format", kind, f"{disk}/{name}")

    runs = ("--runs_dir", f"{disk}/runs", "--evidence_images", "2")
    here = ("--runs_dir", "runs", "--evidence_images", "0")
    pack = ("pack", "imagefolder", "--workers", "1", "--samples_per_shard", "4")
    return [
        Writer("run folder", training(2, *runs), training(1, *runs)),
        Writer(
            "W&B folder",
            training(2, *here),
            variables={"WANDB_MODE": "offline"},
            link=folder / "work" / "runs" / "x" / "wandb",
            survives=True,
        ),
        Writer(
            "shard cache",
            training(1, *here, "--data.cache_dir", f"{disk}/cache", root=f"{url}/data"),
        ),
        Writer("packed data", (*pack, "few", f"{disk}/few"), (*pack, "few", f"{disk}/other")),
        Writer("results of an experiment", pointing(8), pointing(4)),
        Writer("evidence report", report("few"), report("many")),
        Writer("predictions", predict("few"), predict("many")),
        Writer("exported weights", export("x.safetensors", "safetensors"), export("y", "hf")),
        Writer("exported folder", export("x", "hf"), export("y.safetensors", "safetensors")),
        Writer(
            "demo data", ("demo", f"{disk}/a", "--train", "12"), ("demo", f"{disk}/b", "--train=9")
        ),
    ]


def forget(folder: Path, writer: Writer) -> None:
    """Remove what a command has left beside the disk."""
    shutil.rmtree(folder / "work" / "runs", ignore_errors=True)
    if writer.link is not None:
        writer.link.parent.mkdir(parents=True)


def _draw(folder: Path, counts: Mapping[str, int]) -> None:
    rng = np.random.default_rng(0)
    for split, count in counts.items():
        for number in range(count):
            path = folder / split / "ab"[number % 2] / f"{number}.jpg"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(rng.integers(0, 256, (40, 40, 3), dtype=np.uint8)).save(path)
