"""docs/finetuning.md to the letter, on large grey images of two classes: a small mark decides."""

from __future__ import annotations

import csv
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from bagnet.evidence.maps import evidence_map
from bagnet.model.card import Card, set_card
from bagnet.model.registry import build_model, normalize
from bagnet.model.weights import load_model, save_weights
from datamodules.imagenet import ImageNetDataModule
from tests.trainings import REPOSITORY, table
from tests.wheel import live_with, site

__all__ = ["site"]

HEIGHT, WIDTH, RADIUS = 600, 800, 32
SIZE, RESIZED = 96, 128
PAGE = REPOSITORY / "docs" / "finetuning.md"
SMALL = {
    "pack": ["--resize", str(RESIZED), "--workers", "1"],
    "train": [
        *("--patch", "17", "--model.width", "16", "--gpus", "0"),
        *("--data.image_size", str(SIZE), "--data.resize_size", str(SIZE), "--data.workers", "0"),
        *("--data.batch_size", "16", "--data.min_scale", "0.9", "--trainer.max_epochs", "10"),
        # The weights are random, so all layers learn at once.
        *("--model.learning_rate", "0.8", "--model.backbone_rate", "1"),
        *("--model.weights", "other.safetensors"),
    ],
}
"""What makes the page's commands small; the last of two equal flags counts."""


def scan(generator: np.random.Generator, ill: bool) -> tuple[np.ndarray, tuple[int, int]]:
    """A grey image of 16 bits, and the centre (y, x) of the mark that only `ill` ones have."""
    coarse = generator.normal(size=(HEIGHT // 20, WIDTH // 20))
    pixels = np.kron(coarse, np.ones((20, 20))) * 2500 + 30_000
    pixels += generator.integers(-2000, 2000, pixels.shape)
    # In the square that is left of the image in a validation.
    y = int(generator.integers(60, HEIGHT - 60))
    x = int(generator.integers(160, WIDTH - 160))
    if ill:
        rows, columns = np.ogrid[:HEIGHT, :WIDTH]
        distance = np.hypot(rows - y, columns - x)
        pixels[distance < RADIUS] += 14_000
        pixels[distance < RADIUS / 2] -= 26_000
    return pixels.clip(0, 65_535).astype(np.uint16), (y, x)


def write_scans(folder: Path) -> dict[str, tuple[int, int]]:
    """Write the images, with fewer ill ones for training; say where the marks are, by key."""
    generator, marks = np.random.default_rng(0), {}
    for split, name, count in (
        *(("train", "healthy", 120), ("train", "ill", 40)),
        *(("val", "healthy", 25), ("val", "ill", 25)),
    ):
        (folder / split / name).mkdir(parents=True)
        for number in range(count):
            pixels, mark = scan(generator, name == "ill")
            path = folder / split / name / f"{number:03}.png"
            Image.fromarray(pixels).save(path, compress_level=1)
            marks[f"{split}/{name}_{number:03}"] = mark
            if name == "ill" and split == "val":
                rows, columns = np.ogrid[:HEIGHT, :WIDTH]
                mask = np.hypot(rows - mark[0], columns - mark[1]) < RADIUS
                Path("masks", name).mkdir(parents=True, exist_ok=True)
                Image.fromarray(mask).save(Path("masks", name, path.name))
    return marks


def commands() -> list[list[str]]:
    blocks = re.findall(r"```bash\n(.*?)```", PAGE.read_text(), re.DOTALL)
    return [shlex.split(line) for block in blocks for line in block.splitlines()]


def run(words: list[str]) -> str:
    assert words[0] == "python"
    what = "pack" if "datamodules.pack" in words else "train" if "--config" in words else ""
    command = [sys.executable, *words[1:], *SMALL.get(what, [])]
    done = subprocess.run(command, capture_output=True, text=True, timeout=900)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.slow
def test_a_network_for_two_classes_shows_the_mark_that_decides(site, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    live_with(site, tmp_path / "home", monkeypatch)
    monkeypatch.setenv("WANDB_MODE", "disabled")
    Path("configs").symlink_to(REPOSITORY / "configs")
    shutil.copy(REPOSITORY / "train.py", tmp_path)  # not a link, or Python would look beside it
    marks = write_scans(Path("scans"))
    torch.manual_seed(0)
    other = build_model("bagnet17", num_classes=3, width=16)
    set_card(other, Card("bagnet17", ("cat", "cow", "dog")))
    save_weights(other, "other.safetensors")

    pack, train, validate, report, localization = commands()
    run(pack)
    out = run(train)
    assert "its classifier starts afresh" in out
    assert "top-5" not in out
    best = max(
        (row for row in table("scans") if row["val/top1"]), key=lambda row: float(row["val/top1"])
    )
    assert float(best["val/top1"]) > 0.9  # chance is 0.5
    assert float(best["val/auroc"]) > 0.9
    assert "val/top5" not in best
    balanced, auroc = (float(best[f"val/{name}"]) for name in ("balanced_accuracy", "auroc"))
    assert f"balanced accuracy {balanced:.2%}, AUROC {auroc:.4f}" in run(validate)
    for name in ("evidence.png", "confusion.png"):
        assert Path("runs/scans", name).exists()

    model = load_model("runs/scans/checkpoints/best.ckpt")
    assert model.card.class_names == ("healthy", "ill")
    data = ImageNetDataModule("data/scans", 50, 0, image_size=SIZE, resize_size=SIZE)
    found = []
    for images, labels, sample_ids in data.val_dataloader():
        evidence = evidence_map(model, normalize(images))
        for sample in torch.nonzero(labels == 1)[:, 0].tolist():
            y, x = marks[f"val/{data.val_manifest.sample(int(sample_ids[sample])).key}"]
            y, x = y * SIZE / HEIGHT, x * SIZE / HEIGHT - (SIZE * WIDTH / HEIGHT - SIZE) / 2
            entry = divmod(int(evidence[sample, 1].argmax()), evidence.shape[-1])
            top, left, bottom, right = model.box(*entry)
            found.append(top <= y < bottom and left <= x < right)
    assert len(found) == 25
    assert sum(found) >= 20  # of random patches, one in thirty

    run(report)
    assert "ill" in Path("scans.html").read_text()

    assert "25 of 50 validation images have a mask; left out: 25 without" in run(localization)
    with Path("results/localization/table.csv").open(newline="") as file:
        dense, _, chance = csv.DictReader(file)
    assert float(dense["precision"]) > 5 * float(chance["precision"])
    assert float(dense["points"]) > 0.8
    assert float(chance["points"]) < 0.2
