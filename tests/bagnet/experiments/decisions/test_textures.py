"""Texture synthesis: Gram matrices match, and each image is made by itself, reproducibly."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torchvision.models import vgg16

from bagnet.experiments.decisions import textures
from bagnet.experiments.decisions.textures import (
    Synthesis,
    TextureNetwork,
    layer_outputs,
    picture_file,
    read_pictures,
    texture_loss,
)
from bagnet.model.network import BagNet
from bagnet.model.registry import normalize
from tests.bagnet.experiments.bags import pictures

LAYERS = ("conv1_1", "pool1", "conv2_2")


def tiny_vgg() -> nn.Sequential:
    torch.manual_seed(0)

    def conv(channels, out):
        return (nn.Conv2d(channels, out, 3, padding=1), nn.ReLU(inplace=True))

    layers = [*conv(3, 6), nn.MaxPool2d(2), *conv(6, 8), *conv(8, 8), nn.MaxPool2d(2)]
    return nn.Sequential(*layers).requires_grad_(False)


def synthesise(folder, images, steps, first=0, seed=0):
    ids = torch.arange(len(images)) + first
    return Synthesis(folder, LAYERS, steps, seed)(tiny_vgg(), images, torch.zeros(len(ids)), ids)


def test_layers_are_named_as_in_the_paper_on_vggs():
    """In VGG-16, pool4 halves the size for the fourth time, and block 3 has three convolutions."""
    with torch.device("meta"):
        features, x = vgg16(weights=None).features, torch.empty(1, 3, 64, 64)
    maps = layer_outputs(features, x, ("conv1_1", "pool1", "conv3_3", "pool4"))
    shapes = {name: tuple(output.shape[1:]) for name, output in maps}
    assert shapes == {
        "conv1_1": (64, 64, 64),
        "pool1": (64, 32, 32),
        "conv3_3": (256, 16, 16),
        "pool4": (512, 4, 4),
    }
    with pytest.raises(
        ValueError, match=r"--layers conv9_1: .* no such layer; choose from conv1_1, conv1_2, pool1"
    ):
        list(layer_outputs(features, x, ("conv1_1", "conv9_1")))


def test_the_maps_of_a_layer_are_those_after_its_relu():
    model, x = tiny_vgg(), normalize(pictures(2, 16))
    maps = dict(layer_outputs(model, x, LAYERS))
    for name, end in zip(LAYERS, (2, 3, 7), strict=True):
        torch.testing.assert_close(maps[name], model[:end](x))


def test_the_loss_is_the_relative_error_of_the_mean_products_of_channels():
    model, (a, b) = tiny_vgg(), pictures(2, 16).split(1)
    loss = texture_loss(model, a / 255, ("conv1_1", "pool1"))
    expected = 0
    for maps in (model[:2], model[:3]):
        wanted, found = (
            torch.stack([(x * channel).mean((1, 2)) for channel in x])
            for (x,) in (maps(normalize(image)) for image in (a, b))
        )
        expected += ((found - wanted).norm() / wanted.norm()) ** 2
    torch.testing.assert_close(loss(b / 255), expected)
    torch.testing.assert_close(loss(a / 255), torch.tensor(0.0))


def test_textures_match_by_orders_of_magnitude_better_than_noise(tmp_path):
    smooth = nn.functional.interpolate(pictures(2, 6).float(), (24, 24), mode="bicubic")
    columns = synthesise(tmp_path, smooth.clamp(0, 255).to(torch.uint8), steps=100)
    for start, end in zip(columns["loss_start"], columns["loss"], strict=True):
        assert 0 < end < start / 10**4


def test_pictures_depend_on_seed_and_sample_only(tmp_path):
    images, ids = pictures(2, 16), torch.tensor([7, 8])
    synthesise(tmp_path / "a", images, steps=5, first=7)
    synthesise(tmp_path / "b", images[1:], steps=5, first=8)
    assert sorted(p.name for p in (tmp_path / "a").iterdir()) == ["00000007.png", "00000008.png"]
    read = read_pictures(tmp_path / "a", ids)
    assert (read.shape, read.dtype) == ((2, 3, 16, 16), torch.uint8)
    alone, together = (picture_file(tmp_path / name, 8).read_bytes() for name in "ab")
    assert alone == together
    synthesise(tmp_path / "c", images, steps=5, first=7, seed=1)
    others = read_pictures(tmp_path / "c", ids)
    assert all((a != b).float().mean() > 0.5 for a, b in zip(read, others, strict=True))


def test_only_a_vgg_can_describe_textures(tmp_path):
    model = BagNet(9, 4, width=2)
    torch.save(model.state_dict(), tmp_path / "weights.pth")
    with pytest.raises(ValueError, match=r"bagnet9 .*is not a VGG"):
        TextureNetwork("bagnet9", tmp_path / "weights.pth").load(torch.device("cpu"), ())


def test_a_vgg_may_have_other_classes(tmp_path, monkeypatch):
    vgg = nn.Module()
    vgg.features = tiny_vgg().requires_grad_(True)
    monkeypatch.setattr(textures, "load_model", lambda path, name: vgg)
    features = TextureNetwork("vgg16", tmp_path / "weights.pth").load(torch.device("cpu"), ())
    assert features is vgg.features
    assert not any(weights.requires_grad for weights in features.parameters())


def test_a_damaged_picture_is_named(tmp_path):
    picture_file(tmp_path, 0).write_bytes(b"\x89PNG")
    with pytest.raises(ValueError, match=r"00000000\.png cannot be read as an image"):
        read_pictures(tmp_path, torch.tensor([0]))
