"""The maps around every pixel that a report holds: right, and never too large."""

from __future__ import annotations

import base64
import io
import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from bagnet.evidence.__main__ import main
from bagnet.evidence.dense import dense_evidence
from bagnet.evidence.report import dense
from bagnet.evidence.report.dense import DenseMaps, dense_maps
from bagnet.evidence.report.votes import compute_votes
from bagnet.model.network import BagNet
from bagnet.model.registry import normalize
from bagnet.model.weights import load_model
from datamodules.decoding.transforms import EvalTransform
from tests.bagnet.experiments.conftest import save_network


def decode(png: bytes, classes: int, limit: float) -> np.ndarray:
    """The maps in logits, float (classes, H', W')."""
    with Image.open(io.BytesIO(png)) as picture:
        assert picture.mode == "L"
        levels = np.asarray(picture).astype(float)
    return (levels.reshape(classes, -1, levels.shape[1]) - 128) / 127 * limit


def report(folder: Path, *more: str) -> list[dict[str, Any]]:
    """The images of a report on the images in `folder / "images"`."""
    words = ["report", str(folder / "images"), "--checkpoint", str(folder / "net.ckpt")]
    sizes = ["--data.image_size", "47", "--data.resize_size", "50", "--out"]
    assert main([*words, *sizes, str(folder / "report.html"), *more]) == 0
    text = re.search(r'id="data">(.*?)</script>', (folder / "report.html").read_text(), re.DOTALL)
    return json.loads(text[1])["images"]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Noise of three classes, and a network for them."""
    save_network(tmp_path / "net.ckpt", 9, 3)
    rng = np.random.default_rng(0)
    for name in ("cat", "dog", "fox"):
        (tmp_path / "images" / name).mkdir(parents=True)
        pixels = rng.integers(0, 256, (60, 80, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(tmp_path / "images" / name / "x.png")
    return tmp_path


def test_a_report_has_the_maps_of_the_predicted_and_the_true_class(folder):
    model = load_model(folder / "net.ckpt").eval()
    transform = EvalTransform(47, 50)
    counts = set()
    for label, image in enumerate(report(folder, "--dense")):
        pixels = transform((folder / "images" / image["name"]).read_bytes())
        predicted = image["top"][0]
        maps, limit = image["dense"], image["limit"]
        assert maps["classes"] == list(dict.fromkeys([predicted, label]))
        assert maps["step"] == 1
        found = decode(base64.b64decode(maps["png"]), len(maps["classes"]), limit)
        expected = dense_evidence(model, normalize(pixels[None])[0], maps["classes"]).numpy()
        assert found.shape == expected.shape == (len(maps["classes"]), 47, 47)
        # Half a level of 127 on each side, which is the colour that the page shows.
        np.testing.assert_allclose(found, expected.clip(-limit, limit), atol=0.501 * limit / 127)
        assert maps["means"] == pytest.approx(expected.mean((1, 2)).tolist(), rel=1e-4)
        counts.add(len(maps["classes"]))
    assert counts == {1, 2}
    assert [image["dense"] for image in report(folder)] == [None] * 3


@pytest.mark.parametrize("most", [40_000, 8000, 1000])
def test_maps_become_coarser_until_their_text_is_small_enough(most, monkeypatch):
    monkeypatch.setattr(dense, "MAX_BYTES", 4 * most)
    torch.manual_seed(0)
    model = BagNet(9, 5, width=2).eval()
    pixels = torch.randint(0, 256, (3, 101, 130), dtype=torch.uint8)
    image = compute_votes(model, pixels, "x.png", 3)
    assert image.predicted != 3
    maps = dense_maps(model, image, 4)
    assert len(base64.b64encode(maps.png)) <= most
    assert (maps.step == 1) == (most == 40_000)
    whole = dense_evidence(model, normalize(pixels[None])[0], maps.classes).numpy()
    first, step = maps.step // 2, maps.step
    expected = whole[:, first::step, first::step].clip(-image.limit, image.limit)
    found = decode(maps.png, 2, image.limit)
    np.testing.assert_allclose(found, expected, atol=0.501 * image.limit / 127)
    if step > 1:  # and no coarser than that
        finer = whole[:, (step - 1) // 2 :: step - 1, (step - 1) // 2 :: step - 1]
        assert 4 * finer.size / 3 > 0.5 * most
    assert maps.means == pytest.approx(whole.mean((1, 2)).tolist(), rel=1e-4)


def test_one_line_says_that_maps_are_coarse(folder, monkeypatch, capsys):
    monkeypatch.setattr(dense, "MAX_BYTES", 9000)
    maps = [DenseMaps(**image["dense"]) for image in report(folder, "--dense")]
    assert max(each.step for each in maps) > 1
    assert sum(len(each.png) for each in maps) <= 9000  # which is text here
    notes = [line for line in capsys.readouterr().err.splitlines() if "every pixel" in line]
    assert len(notes) == 1
    assert "give fewer images" in notes[0]


def test_a_true_class_that_is_predicted_has_one_map():
    model = BagNet(9, 5, width=2).eval()
    image = compute_votes(model, torch.zeros(3, 41, 41, dtype=torch.uint8), "x.png", None)
    assert image.judged == [image.predicted]
    assert replace(image, label=image.predicted).judged == [image.predicted]
    assert replace(image, label=(image.predicted + 1) % 5).judged[1:] == [(image.predicted + 1) % 5]
