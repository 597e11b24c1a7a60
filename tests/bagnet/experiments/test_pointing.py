"""The pointing experiment: its numbers where the answer is known, its files, and its errors."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from rich.console import Console
from torch import Tensor, nn

from bagnet.experiments import pointing
from bagnet.experiments.__main__ import main
from bagnet.experiments.measuring import trained
from bagnet.model.network import BagNet
from datamodules.demo.generate import generate
from datamodules.imagenet import ImageNetDataModule

CLASSES = 9


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("demo")
    generate(out, {"train": 9, "val": 12}, seed=0)
    return out


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    return save_checkpoint(tmp_path / "best.ckpt", CLASSES)


def save_checkpoint(path: Path, classes: int) -> Path:
    torch.manual_seed(0)
    weights = BagNet(33, classes, width=2).state_dict()
    settings = {"name": "bagnet33", "num_classes": classes, "width": 2}
    state = {f"model.{name}": value for name, value in weights.items()}
    torch.save({"state_dict": state, "hyper_parameters": settings}, path)
    return path


class Scripted(BagNet):
    """A BagNet-33 that shows given evidence instead of looking: (images, classes, H', W')."""

    def __init__(self, evidence: Tensor) -> None:
        super().__init__(33, CLASSES, width=2)
        self.evidence = evidence

    def logits_map(self, x: Tensor) -> Tensor:
        return self.evidence[: len(x)]

    def forward(self, x: Tensor) -> Tensor:
        return self.logits_map(x).mean((2, 3))


def measure(
    demo: Path, script: Callable[[Tensor, int, np.ndarray], None]
) -> tuple[pointing.Pointing, list]:
    """Measure a network whose evidence `script(evidence, label, is_on_texture)` fills in."""
    planted = pointing.load_planted(demo / "val")
    size = planted["image_size"]
    data = ImageNetDataModule(
        str(demo), batch_size=50, workers=0, image_size=size, resize_size=size
    )
    network = BagNet(33, CLASSES, width=2)
    height, width = network.map_size(size, size)
    manifest = data.val_manifest
    evidence = torch.zeros(manifest.num_samples, CLASSES, height, width)
    for number in range(manifest.num_samples):
        sample = manifest.sample(number)
        planted_pixels = np.zeros((size, size), dtype=bool)
        for top, left, bottom, right in planted["images"][sample.key]["textures"]:
            planted_pixels[top:bottom, left:right] = True
        # The patch that starts at 8 i has its centre at 8 i + 16.5; 4 px on both sides of it are in
        # the pixels 8 i + 12 to 8 i + 20.
        on_texture = np.array(
            [
                [planted_pixels[y : y + 9, x : x + 9].any() for x in range(12, 8 * width + 12, 8)]
                for y in range(12, 8 * height + 12, 8)
            ]
        )
        script(evidence[number], sample.label, on_texture)
    return pointing.measure(Scripted(evidence), data, planted["images"], Console(quiet=True))


def first(where: np.ndarray) -> tuple[int, int]:
    i, j = np.argwhere(where)[0]
    return int(i), int(j)


def test_evidence_on_the_textures_points(demo: Path) -> None:
    def script(evidence: Tensor, label: int, on_texture: np.ndarray) -> None:
        evidence[label][first(on_texture)] = 5

    result, examples = measure(demo, script)
    assert (result.pointing, result.pointing_true_class) == (1, 1)
    assert (result.images, result.top1, result.top5) == (12, 1, 1)
    assert [example.true for example in examples] == [e.predicted for e in examples]
    assert len(examples) == CLASSES


def test_evidence_beside_the_textures_does_not_point(demo: Path) -> None:
    def script(evidence: Tensor, label: int, on_texture: np.ndarray) -> None:
        evidence[label][first(~on_texture)] = 5

    result, _ = measure(demo, script)
    assert (result.pointing, result.top1) == (0, 1)


def test_the_predicted_class_counts_not_the_true_one(demo: Path) -> None:
    def script(evidence: Tensor, label: int, on_texture: np.ndarray) -> None:
        evidence[(label + 1) % CLASSES][first(on_texture)] = 5
        evidence[label][first(~on_texture)] = 1

    result, _ = measure(demo, script)
    assert (result.pointing, result.pointing_true_class) == (1, 0)
    assert (result.top1, result.top5) == (0, 1)


def test_chance_is_what_a_random_patch_gets(demo: Path) -> None:
    shares = []

    def script(evidence: Tensor, label: int, on_texture: np.ndarray) -> None:
        shares.append(on_texture.mean())

    result, _ = measure(demo, script)
    assert result.chance == pytest.approx(np.mean(shares))
    assert 0.2 < result.chance < 0.8


def test_it_writes_the_result_and_a_picture(
    demo: Path, checkpoint: Path, capsys: pytest.CaptureFixture
) -> None:
    out = checkpoint.parent / "new" / "out"
    arguments = ["pointing", "--checkpoint", str(checkpoint), "--data.root", str(demo)]
    assert main([*arguments, "--out", str(out)]) == 0
    result = json.loads((out / "pointing.json").read_text())
    assert result["images"] == 12
    assert 0 <= result["pointing"] <= 1
    with Image.open(out / "evidence.png") as picture:
        assert picture.format == "PNG"
        assert picture.width > picture.height > 400
    assert f"{result['pointing']:.1%}" in capsys.readouterr().out

    pictures = (out / "evidence.png").read_bytes()
    assert main(arguments) == 0
    assert (checkpoint.parent / "evidence.png").read_bytes() == pictures


def failing(capsys: pytest.CaptureFixture, checkpoint: Path, root: Path) -> str:
    """The message of a run that fails as it should."""
    before = set(checkpoint.parent.iterdir())
    assert main(["pointing", "--checkpoint", str(checkpoint), "--data.root", str(root)]) == 2
    assert set(checkpoint.parent.iterdir()) == before
    message = capsys.readouterr().err
    assert message.startswith("error: ")
    assert message.count("\n") == 1
    return message


def test_data_without_planted_boxes(
    demo: Path, checkpoint: Path, shards: Path, capsys: pytest.CaptureFixture
) -> None:
    message = failing(capsys, checkpoint, shards)
    assert "planted.json does not exist" in message
    assert "python -m datamodules.demo" in message


def test_a_checkpoint_that_does_not_exist(
    demo: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    assert "nowhere.ckpt" in failing(capsys, tmp_path / "nowhere.ckpt", demo)


def test_a_network_with_other_classes(
    demo: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    other = save_checkpoint(tmp_path / "other.ckpt", 5)
    message = failing(capsys, other, demo)
    assert "tells 5 classes apart" in message
    assert "has 9" in message


def test_a_network_that_is_no_bagnet(
    demo: Path, checkpoint: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    monkeypatch.setattr(trained, "load_model", lambda path, name: nn.Linear(1, 1))
    assert "Linear is not a BagNet" in failing(capsys, checkpoint, demo)


def test_damaged_boxes(checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    (tmp_path / "val").mkdir()
    (tmp_path / "val" / "planted.json").write_text('{"images": ')
    assert "is damaged" in failing(capsys, checkpoint, tmp_path)
