"""Shared by all tests: tiny data in real shards, and no W&B unless a test is about it."""

from __future__ import annotations

import io
import os
import signal
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
import wandb
from PIL import Image

from datamodules.shards.manifest import Manifest
from datamodules.shards.writer import write_shard

os.environ.setdefault("OMP_NUM_THREADS", "1")  # the processes that tests start share few cores
torch.set_num_threads(1)  # more threads only slow tiny networks down
CLASSES = tuple(f"class{label}" for label in range(6))


def pytest_configure(config: pytest.Config) -> None:
    # Lightning gives this hint on every machine that has SLURM; train.py hides it.
    config.addinivalue_line("filterwarnings", "ignore:The `srun` command is available")
    # Lightning calls methods that jsonargparse deprecates.
    config.addinivalue_line("filterwarnings", "ignore::DeprecationWarning:pytorch_lightning.cli")


def colour_jpeg(label: int, rng: np.random.Generator) -> bytes:
    """A small noisy JPEG whose colour shows the class, so one patch is enough to know it."""
    colour = 40 + 170 * np.array([label & 1, label >> 1 & 1, label >> 2 & 1])
    pixels = np.clip(colour + rng.normal(0, 25, (40, 48, 3)), 0, 255).astype(np.uint8)
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "JPEG", quality=95)
    return file.getvalue()


@pytest.fixture(scope="session")
def shards(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Packed data: 6 classes, 150 training images in 3 uneven shards, 53 for validation in 2."""
    root = tmp_path_factory.mktemp("shards")
    rng = np.random.default_rng(0)
    for split, counts in {"train": (50, 70, 30), "val": (23, 30)}.items():
        folder = root / split
        folder.mkdir()
        parts = []
        for number, count in enumerate(counts):
            labels = rng.integers(0, len(CLASSES), count)
            samples = [
                (f"{split}{number}_{i}", colour_jpeg(int(label), rng), int(label))
                for i, label in enumerate(labels)
            ]
            parts.append(write_shard(folder / f"shard-{number:06d}.tar", samples))
        Manifest.assemble(folder, CLASSES, CLASSES, parts).save()
    return root


@pytest.fixture(autouse=True)
def environment() -> Iterator[None]:
    """Undo what commands leave (MASTER_PORT, signals), or later tests' processes inherit it."""
    before = dict(os.environ)
    # A command that was stopped ignores SIGTERM, and so would all processes of later tests.
    handlers = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}
    yield
    for number, handler in handlers.items():
        signal.signal(number, handler)
    for name in os.environ.keys() - before.keys():
        del os.environ[name]


@pytest.fixture(autouse=True)
def no_wandb(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setenv("WANDB_MODE", "disabled")
    yield
    wandb.finish()
    wandb.teardown()  # or the next test would have this one's settings
