"""Shared by the tests of experiments: narrow networks for the data of `shards`, and flags."""

from __future__ import annotations

import csv
from pathlib import Path

import pytest
import torch

from bagnet.model.network import BagNet
from datamodules.demo.generate import generate

CLASSES = 6


def save_network(path: Path, patch: int = 9, classes: int = CLASSES) -> Path:
    """A checkpoint as training writes it, of a narrow BagNet with random weights."""
    torch.manual_seed(patch)
    model = BagNet(patch, classes, width=2)
    settings = {"name": f"bagnet{patch}", "num_classes": classes, "width": 2}
    state = {f"model.{name}": value for name, value in model.state_dict().items()}
    torch.save({"state_dict": state, "hyper_parameters": settings}, path)
    return path


@pytest.fixture(scope="session")
def networks(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the checkpoints 9.ckpt and 17.ckpt."""
    folder = tmp_path_factory.mktemp("networks")
    for patch in (9, 17):
        save_network(folder / f"{patch}.ckpt", patch)
    return folder


@pytest.fixture
def command(shards: Path, networks: Path, tmp_path: Path) -> list[str]:
    """Flags of `MeasureOptions` for two models, `bagnet9` and `mine`; --out is the folder `out`."""
    return flags(shards, networks, tmp_path / "out")


@pytest.fixture(scope="session")
def demo(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Data of the demo: 9 classes, 12 validation images."""
    folder = tmp_path_factory.mktemp("demo")
    generate(folder, {"train": 9, "val": 12}, seed=0)
    return folder


def flags(shards: Path, networks: Path, out: Path) -> list[str]:
    """See `command`."""
    models = [f"bagnet9={networks / '9.ckpt'}", f"mine={networks / '17.ckpt'}"]
    paths = ["--data.root", str(shards), "--out", str(out)]
    sizes = ["--data.image_size", "33", "--data.resize_size", "36", "--data.batch_size", "4"]
    return ["--models", *models, *paths, *sizes, "--gpus", "0", "--data.workers", "0"]


def read_csv(path: Path) -> list[dict[str, str]]:
    """The rows of a table."""
    with path.open(newline="") as file:
        return list(csv.DictReader(file))
