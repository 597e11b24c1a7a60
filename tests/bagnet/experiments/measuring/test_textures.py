"""Texture synthesis: Gram matrices match, images are independent, and pictures are reproducible."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn
from torchvision.models import vgg16

from bagnet.experiments.measuring import textures
from bagnet.experiments.measuring.lbfgs import minimise
from bagnet.experiments.measuring.textures import (
    Synthesis,
    TextureNetwork,
    gram,
    layer_outputs,
    noise,
    normalised,
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


def synthesise(folder, images, steps, first=0):
    ids = torch.arange(len(images)) + first
    return Synthesis(folder, LAYERS, steps, 0)(tiny_vgg(), images, torch.zeros(len(images)), ids)


def test_gram_matrices_are_the_mean_products_of_channels():
    maps = torch.randn(2, 3, 4, 5, generator=torch.Generator().manual_seed(0))
    expected = torch.zeros(2, 3, 3)
    for b, i, j in np.ndindex(2, 3, 3):
        expected[b, i, j] = (maps[b, i] * maps[b, j]).mean()
    torch.testing.assert_close(gram(maps), expected)


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


def test_the_loss_is_the_relative_error_of_the_gram_matrices():
    model, a, b = tiny_vgg(), normalize(pictures(2, 16)), normalize(pictures(2, 16, seed=1))
    loss = texture_loss(model, a, ("conv1_1", "pool1"))
    total = torch.zeros(2)
    for maps in (model[:2], model[:3]):
        wanted = gram(maps(a))
        total += ((gram(maps(b)) - wanted).norm(dim=(1, 2)) / wanted.norm(dim=(1, 2))) ** 2
    torch.testing.assert_close(loss(b), total)
    torch.testing.assert_close(loss(a), torch.zeros(2))


def test_textures_match_the_gram_matrices_by_orders_of_magnitude_better_than_noise(tmp_path):
    smooth = nn.functional.interpolate(pictures(2, 6).float(), (24, 24), mode="bicubic")
    columns = synthesise(tmp_path, smooth.clamp(0, 255).to(torch.uint8), steps=100)
    assert (columns["loss"] < columns["loss_start"] / 10**4).all()
    assert (columns["loss"] > 0).all()


def test_images_of_a_batch_do_not_influence_each_other():
    model, images = tiny_vgg().double(), pictures(3, 16)
    targets = normalize(images, torch.float64)
    start = noise(images, torch.arange(3), 0).double()

    def synthesised(rows):
        loss = texture_loss(model, targets[rows], LAYERS)
        return minimise(lambda z: loss(normalised(z)), start[rows], 25)

    together = synthesised(slice(None))
    for row in range(3):
        torch.testing.assert_close(together[row, None], synthesised([row]), rtol=1e-6, atol=1e-8)


def test_noise_is_drawn_by_seed_and_sample_whatever_the_batch():
    images, ids = pictures(3, 16), torch.tensor([4, 9, 2])
    together = noise(images, ids, 0)
    assert (together.shape, together.dtype) == (images.shape, torch.float32)
    assert torch.equal(noise(images[1:2], ids[1:2], 0)[0], together[1])
    assert not torch.equal(noise(images, ids, 1), together)
    assert not torch.equal(together[0], together[1])


def test_pictures_are_written_by_sample_and_are_reproducible(tmp_path):
    images, a, b = pictures(2, 16), tmp_path / "a", tmp_path / "b"
    for folder in (a, b):
        synthesise(folder, images, steps=5, first=7)
    assert sorted(p.name for p in a.iterdir()) == ["00000007.png", "00000008.png"]
    read = read_pictures(a, torch.tensor([8, 7]))
    assert (read.shape, read.dtype) == ((2, 3, 16, 16), torch.uint8)
    assert not torch.equal(read[0], read[1])
    for sample_id in (7, 8):
        files = [picture_file(folder, sample_id).read_bytes() for folder in (a, b)]
        assert files[0] == files[1]


def test_only_a_vgg_can_describe_textures(tmp_path):
    model = BagNet(9, 4, width=2)
    torch.save(model.state_dict(), tmp_path / "weights.pth")
    with pytest.raises(ValueError, match=r"bagnet9 .*is not a VGG"):
        TextureNetwork("bagnet9", tmp_path / "weights.pth").load(torch.device("cpu"), 7)


def test_a_vgg_may_have_other_classes(tmp_path, monkeypatch):
    vgg = nn.Module()
    vgg.features = tiny_vgg().requires_grad_(True)
    monkeypatch.setattr(textures, "load_model", lambda path, name: vgg)
    features = TextureNetwork("vgg16", tmp_path / "weights.pth").load(torch.device("cpu"), 7)
    assert features is vgg.features
    assert not any(weights.requires_grad for weights in features.parameters())
