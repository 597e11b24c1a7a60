"""Runs the command on a few tiny images."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from bagnet.training.command_line.command import main
from tests.bagnet.evidence.report.test_command import save_network, save_noise

CARD = {
    "name": "bagnet9",
    "classes": tuple("abcdefg"),
    "class_names": ('a "quoted" name', "b, with a comma", *"CDEFG"),
    "image_size": 40,
    "resize_size": 40,
}

Predict = Callable[..., pa.Table]


@pytest.fixture
def weights(tmp_path: Path) -> Path:
    return save_network(tmp_path / "tiny.ckpt", "bagnet9", 7, card=CARD)


@pytest.fixture
def images(tmp_path: Path) -> Path:
    """A folder with three images, one of them in a folder of its own."""
    for name in ("img10.png", "img9.png", "inner/deep/c.jpg"):
        save_noise(tmp_path / "images" / name, (40, 40))
    return tmp_path / "images"


@pytest.fixture
def predict(weights: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Predict:
    """Runs the command in an empty folder, and returns the table that it has written."""
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")

    def run(*words: str | Path, network: Sequence[str | Path] = ("--model.weights", weights)):
        device = ("--device", "cpu", "--batch_size", "2")
        assert main(["predict", *map(str, (*words, *network, *device))]) == 0
        return pq.read_table("predictions.parquet")

    return run
