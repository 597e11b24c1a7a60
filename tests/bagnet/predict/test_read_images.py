"""`bagnet.read_images`: pixels as the network's validation saw them."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from PIL import Image
from torch import nn

import bagnet
from bagnet.model.card import Card, set_card
from datamodules.decoding.transforms import EvalTransform


def test_images_have_the_size_of_the_networks_validation(tmp_path: Path) -> None:
    files = [tmp_path / "a.png", tmp_path / "b.jpg"]
    for number, file in enumerate(files):
        Image.effect_noise((90 + number, 70), 60).convert("RGB").save(file)
    model = nn.Flatten()
    set_card(model, Card(image_size=48, resize_size=64))
    images = bagnet.read_images(model, [files[0], str(files[1])])
    expected = EvalTransform(48, 64)
    assert torch.equal(images, torch.stack([expected(file.read_bytes()) for file in files]))
    assert torch.equal(bagnet.read_images(model, str(files[0])), images[:1])


def test_without_a_card_images_have_the_usual_size(tmp_path: Path) -> None:
    Image.new("RGB", (300, 260)).save(tmp_path / "a.png")
    assert bagnet.read_images(nn.Flatten(), tmp_path / "a.png").shape == (1, 3, 224, 224)


def test_a_file_that_is_no_image_is_named(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_text("not an image")
    with pytest.raises(ValueError, match=r"a\.png cannot be read as an image"):
        bagnet.read_images(nn.Flatten(), tmp_path / "a.png")
    with pytest.raises(ValueError, match="nothing.png"):
        bagnet.read_images(nn.Flatten(), tmp_path / "nothing.png")
    with pytest.raises(ValueError, match="at least one file"):
        bagnet.read_images(nn.Flatten(), [])
