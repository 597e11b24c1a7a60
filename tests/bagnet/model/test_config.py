"""A folder with config.json and model.safetensors, as Hugging Face and timm have it."""

from __future__ import annotations

import json
import math
import re
from pathlib import Path

import pytest
import timm
import torch
from PIL import Image
from safetensors.torch import save_file
from timm.data import create_transform, resolve_data_config
from timm.models import save_for_hf

from bagnet.model.card import Card, card_of, set_card
from bagnet.model.config import config_of
from bagnet.model.images import IMAGENET_MEAN, IMAGENET_STD
from bagnet.model.registry import build_model, normalize
from bagnet.model.weights import load_model, save_weights
from datamodules.decoding.transforms import EvalTransform

CARD = Card("bagnet9", ("n01", "n02", "n03"), ("cat", "dog", "fox"), 64, 72)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder of ours; the weights alone say less than the config."""
    torch.manual_seed(0)
    model = build_model("bagnet9", 3, width=2)
    set_card(model, CARD)
    (tmp_path / "config.json").write_text(json.dumps(config_of(model)))
    save_file(model.state_dict(), tmp_path / "model.safetensors")
    return tmp_path


def test_the_config_says_what_the_card_says_and_how_images_are_made(folder):
    assert card_of(load_model(folder / "model.safetensors")) == CARD
    config = json.loads((folder / "config.json").read_text())
    images = config.pop("pretrained_cfg")
    assert config == {
        "architecture": "bagnet9",
        "num_classes": 3,
        "num_features": 64,
        "classes": ["n01", "n02", "n03"],
        "class_names": ["cat", "dog", "fox"],
        "image_size": 64,
        "resize_size": 72,
    }
    assert images["input_size"] == [3, 64, 64]
    assert tuple(images["mean"]) == IMAGENET_MEAN
    assert tuple(images["std"]) == IMAGENET_STD


def test_a_network_without_a_name_has_no_config():
    with pytest.raises(ValueError, match="the network has no name"):
        config_of(build_model("bagnet9", 3, width=2))


@pytest.mark.parametrize("size", [(64, 72), (64, 93), (224, 256), (32, 32)])
@pytest.mark.parametrize("shape", [(150, 113), (90, 300)])
def test_timm_prepares_an_image_as_validation_does(tmp_path, size, shape):
    generator = torch.Generator().manual_seed(0)
    coarse = torch.randint(0, 256, (shape[1] // 8, shape[0] // 8, 3), generator=generator)
    image = Image.fromarray(coarse.to(torch.uint8).numpy()).resize(shape)
    image.save(tmp_path / "a.png")
    ours = normalize(EvalTransform(*size)((tmp_path / "a.png").read_bytes())[None])[0]
    preprocessing = Card(image_size=size[0], resize_size=size[1]).preprocessing
    theirs = create_transform(**resolve_data_config(pretrained_cfg=preprocessing))(image)
    torch.testing.assert_close(ours, theirs, rtol=0, atol=0.036)  # two of 255 grey levels


def test_timm_computes_our_shorter_side_from_the_share():
    for shorter in range(1, 700):
        for side in range(1, shorter + 1):
            card = Card(image_size=side, resize_size=shorter)
            assert math.floor(side / card.preprocessing["crop_pct"]) == shorter


@pytest.mark.filterwarnings("ignore:.*nearly dead layers")  # timm's initialisation
def test_a_folder_of_timm(tmp_path):
    theirs = timm.create_model("resnet50", num_classes=2)
    save_for_hf(theirs, tmp_path, safe_serialization=True)
    ours = load_model(tmp_path / "model.safetensors")
    assert card_of(ours) == Card("resnet50")
    x = torch.rand(1, 3, 64, 64)
    torch.testing.assert_close(ours(x), theirs.eval()(x))


def test_images_that_are_normalised_otherwise_are_said(folder):
    config = json.loads((folder / "config.json").read_text())
    config["pretrained_cfg"]["mean"] = [0.5, 0.5, 0.5]
    (folder / "config.json").write_text(json.dumps(config))
    with pytest.warns(UserWarning, match=r"images with the mean \[0.5, 0.5, 0.5\], and here"):
        load_model(folder / "model.safetensors")


@pytest.mark.parametrize(
    "content",
    [
        "",
        "{",
        "[1]",
        '{"architecture": 3}',
        '{"architecture": "bagnet9", "classes": ["a", "a"]}',
        "[" * 100_000,
    ],
)
def test_a_damaged_config_is_one_line(folder, content):
    (folder / "config.json").write_text(content)
    with pytest.raises(ValueError, match=r"is damaged \(.*\): copy or download it again") as error:
        load_model(folder / "model.safetensors")
    assert "\n" not in str(error.value)


def test_a_config_of_another_library_says_nothing(folder):
    (folder / "config.json").write_text('{"architectures": ["ResNet"], "pretrained_cfg": 3}')
    assert card_of(load_model(folder / "model.safetensors")) == Card("bagnet9")
    set_card(model := build_model("bagnet9", 3, width=2), CARD)
    save_weights(model, folder / "model.safetensors")
    assert card_of(load_model(folder / "model.safetensors")) == CARD


@pytest.mark.parametrize("name", ["resnest50", "file:///etc/passwd", "{}"])
def test_a_network_that_is_not_known_is_named_with_its_file(folder, name):
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "architecture": name}))
    with pytest.raises(ValueError, match=f"of a network .{re.escape(name)}., which is not"):
        load_model(folder)
