"""The programs that are killed: trainings, with W&B and without, packing, and an experiment."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from bagnet.model.registry import build_model
from bagnet.model.weights import save_weights
from tests.conftest import colour_jpeg
from tests.soak.kills import compared
from tests.soak.programs.started import TRAIN
from tests.starts import FLAGS, RESUME

IMAGES = {"train": 150, "val": 140}
SAVE_OFTEN = (  # at no last step of an epoch, and at none of the table: Lightning saves before both
    *("--trainer.callbacks+=ModelCheckpoint", "--trainer.callbacks.dirpath=runs/x/checkpoints"),
    *("--trainer.callbacks.filename=last", "--trainer.callbacks.every_n_train_steps=7"),
    "--trainer.callbacks.enable_version_counter=false",
)


@dataclass(frozen=True)
class Victim:
    """A program.

    Attributes:
        name: Of its row.
        words: Its command line after `python`.
        check: Says what differs between a folder that nothing disturbed and another one.
        share: Of all kills.
        resume: What the command line has in all starts but the first.
        wandb: Whether W&B works, offline.
        asked_to_stop: Whether it is also asked to stop.
    """

    name: str
    words: tuple[str, ...]
    check: Callable[[Path, Path], Iterator[str]]
    share: float
    resume: tuple[str, ...] = ()
    wandb: bool = False
    asked_to_stop: bool = False

    @property
    def variables(self) -> dict[str, str]:
        return {"WANDB_MODE": "offline" if self.wandb else "disabled"}


def victims(folder: Path) -> list[Victim]:
    """All of them; the first one makes the data of the others, in `folder / "packs/whole/out"`."""
    tree, weights = folder / "tree", folder / "bagnet9.safetensors"
    rng = np.random.default_rng(0)
    for split, count in IMAGES.items():
        for number in range(count):
            label = int(rng.integers(0, 6))
            path = tree / split / f"class{label}" / f"{number}.jpg"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(colour_jpeg(label, rng))
    save_weights(build_model("bagnet9", num_classes=6, width=4), weights)
    data = ("--data.root", str(folder / "packs/whole/out"))
    train = (TRAIN, *FLAGS, *data, "--trainer.log_every_n_steps", "5", "--data.workers")
    pack = ("-m", "datamodules.pack", "imagefolder", str(tree), "out", "--workers", "1")
    accuracy = (
        "-m",
        "bagnet.experiments",
        "accuracy",
        "--models",
        f"bagnet9={weights}",
        "--gpus",
        "0",
    )
    sizes = ("--data.image_size", "24", "--data.resize_size", "28", "--data.batch_size", "16")
    average = ("--model.ema", "0.9", "--model.precise_bn", "2", "--model.mixup", "0.2")
    return [
        Victim("packs", (*pack, "--samples_per_shard", "30"), compared.files, 0.15),
        Victim(
            "experiments",
            (*accuracy, *data, *sizes, "--data.workers", "0", "--processes", "2", "--out", "out"),
            compared.files,
            0.15,
        ),
        Victim("trainings", (*train, "1"), compared.training, 0.25, RESUME),
        Victim(
            "trainings that save often",
            (*train, "0", *average, *SAVE_OFTEN),
            compared.training,
            0.3,
            RESUME,
            asked_to_stop=True,
        ),
        Victim(
            "trainings with W&B", (*train, "0"), compared.training_and_wandb, 0.15, RESUME, True
        ),
    ]
