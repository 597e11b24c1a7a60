"""The pointing experiment: its numbers where the answer is known, its files, and its errors."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from bagnet.experiments.__main__ import main
from bagnet.experiments.explanations import pointing
from bagnet.model.network import BagNet
from datamodules.demo.pictures import SIZE
from datamodules.imagenet import ImageNetDataModule
from tests.bagnet.experiments.conftest import read_csv, save_network

CLASSES = 9
Script = Callable[[Tensor, int, np.ndarray], None]


@pytest.fixture
def words(demo: Path, tmp_path: Path) -> list[str]:
    checkpoint = save_network(tmp_path / "net.ckpt", 33, CLASSES)
    words = ["pointing", "--models", f"net={checkpoint}", "--data.root", str(demo)]
    return [*words, "--out", str(tmp_path / "out"), "--gpus", "0", "--data.workers", "0"]


class Scripted(BagNet):
    """A BagNet-33 that returns given evidence (images, classes, H', W') instead of looking."""

    def __init__(self, evidence: Tensor) -> None:
        super().__init__(33, CLASSES, width=2)
        self.evidence = evidence

    def logits_map(self, x: Tensor) -> Tensor:
        return self.evidence

    def forward(self, x: Tensor) -> Tensor:
        return self.evidence.mean((2, 3))


def measure(demo: Path, script: Script) -> dict[str, np.ndarray]:
    """Measure a network whose evidence `script(evidence, label, is_on_texture)` fills in."""
    data = ImageNetDataModule(str(demo), workers=0)
    size, boxes = pointing.load_planted(data)
    assert size == SIZE
    height, width = BagNet(33, CLASSES, width=2).map_size(size, size)
    count = data.val_manifest.num_samples
    evidence = torch.zeros(count, CLASSES, height, width)
    labels = []
    for number in range(count):
        sample = data.val_manifest.sample(number)
        labels.append(sample.label)
        is_planted = np.zeros((size, size), dtype=bool)
        for top, left, bottom, right in boxes[number]:
            is_planted[top:bottom, left:right] = True
        # The patch that starts at 8 i has its centre at 8 i + 16.5; 4 px on both sides of it are
        # in the pixels 8 i + 12 to 8 i + 20.
        on_texture = np.array(
            [
                [is_planted[y : y + 9, x : x + 9].any() for x in range(12, 8 * width + 12, 8)]
                for y in range(12, 8 * height + 12, 8)
            ]
        )
        script(evidence[number], sample.label, on_texture)
    images = torch.zeros(count, 3, size, size, dtype=torch.uint8)
    measurement = pointing.Pointing(boxes)
    return measurement(Scripted(evidence), images, torch.tensor(labels), torch.arange(count))


def first(where: np.ndarray) -> tuple[int, int]:
    i, j = np.argwhere(where)[0]
    return int(i), int(j)


def on_textures(evidence: Tensor, label: int, on_texture: np.ndarray) -> None:
    evidence[label][first(on_texture)] = 5


def beside_textures(evidence: Tensor, label: int, on_texture: np.ndarray) -> None:
    evidence[label][first(~on_texture)] = 5


def another_class(evidence: Tensor, label: int, on_texture: np.ndarray) -> None:
    on_textures(evidence, (label + 1) % CLASSES, on_texture)
    evidence[label][first(~on_texture)] = 1


@pytest.mark.parametrize(
    ("script", "points", "points_true", "rank"),
    [(on_textures, 1, 1, 0), (beside_textures, 0, 0, 0), (another_class, 1, 0, 1)],
)
def test_the_strongest_evidence_for_the_predicted_class_counts(
    script, points, points_true, rank, demo
):
    columns = measure(demo, script)
    expected = {"points": points, "points_true": points_true, "rank": rank}
    assert {name: columns[name].tolist() for name in expected} == {
        name: [value] * 12 for name, value in expected.items()
    }


def test_chance_is_what_a_random_patch_gets(demo):
    shares = []
    columns = measure(demo, lambda evidence, label, on_texture: shares.append(on_texture.mean()))
    np.testing.assert_allclose(columns["chance"], shares)
    assert 0.2 < np.mean(shares) < 0.8


def test_it_writes_its_results_and_a_picture_of_each_network(words, tmp_path, capsys):
    assert main(words) == 0
    folder = tmp_path / "out" / "pointing"
    (row,) = read_csv(folder / "table.csv")
    assert (row["model"], row["images"]) == ("net", "12")
    assert f"{float(row['points']):.1%}" in capsys.readouterr().out
    with Image.open(folder / "net-evidence.png") as picture:
        assert picture.width > picture.height > 400
    before = {file: file.read_bytes() for file in folder.glob("[tf]*")}
    assert {file.name for file in before} == {"table.csv", "table.md", "figure.png", "figure.svg"}
    for file in before:
        file.unlink()
    assert main(["pointing", "--out", str(tmp_path / "out")]) == 0
    assert {file: file.read_bytes() for file in before} == before


@pytest.mark.parametrize(
    ("planted", "message"),
    [
        (None, "FileNotFoundError"),
        ('{"images": ', "JSONDecodeError"),
        ('{"image_size": 89, "images": {}}', "KeyError: 'val-000000'"),
    ],
)
def test_data_without_known_textures_is_refused(planted, message, words, demo, tmp_path, capsys):
    other = tmp_path / "other"
    shutil.copytree(demo, other)
    (other / "val" / "planted.json").unlink()
    if planted is not None:
        (other / "val" / "planted.json").write_text(planted)
    assert main([*words, "--data.root", str(other)]) == 2
    error = capsys.readouterr().err
    assert message in error
    assert "make the data" in error
    assert not (tmp_path / "out").exists()


def test_images_of_another_size_are_refused(words, capsys):
    assert main([*words, "--data.image_size", "64", "--data.resize_size", "64"]) == 2
    assert "the planted boxes hold at 89 px only" in capsys.readouterr().err
