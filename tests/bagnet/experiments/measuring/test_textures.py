"""Texture synthesis: Gram matrices that match, images that stay apart, and pictures that are the same again."""

from __future__ import annotations

from collections import deque

import numpy as np
import pytest
import torch
from torch import nn
from torchvision.models import vgg16

from bagnet.experiments.measuring import textures
from bagnet.experiments.measuring.textures import (
    OPTIMIZERS,
    POOLINGS,
    STARTS,
    Synthesis,
    TextureNetwork,
    adam,
    gram,
    layer_outputs,
    normalised,
    picture_file,
    read_pictures,
    starts,
    texture_loss,
)
from bagnet.experiments.measuring.textures import minimise as lbfgs
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


def synthesise(folder, images, first=0, **settings):
    defaults = {"layers": LAYERS, "weights": (1.0,) * 3, "steps": 60}
    ids = torch.arange(len(images)) + first
    return Synthesis(folder, **defaults | settings)(
        tiny_vgg(), images, torch.zeros(len(images)), ids
    )


def test_gram_matrices_are_the_mean_products_of_channels():
    maps = torch.randn(2, 3, 4, 5, generator=torch.Generator().manual_seed(0))
    expected = torch.zeros(2, 3, 3)
    for b, i, j in np.ndindex(2, 3, 3):
        expected[b, i, j] = (maps[b, i] * maps[b, j]).mean()
    torch.testing.assert_close(gram(maps), expected)


def test_layers_are_named_as_in_the_paper():
    """The fourth pooling of a VGG-16 halves its size for the fourth time; its third block has three convolutions."""
    features = vgg16(weights=None).features
    x = torch.randn(1, 3, 64, 64)
    names = ("conv1_1", "pool1", "conv3_3", "pool4")
    maps = dict(layer_outputs(features, x, names, "max"))
    shapes = {name: tuple(output.shape[1:]) for name, output in maps.items()}
    assert shapes == {
        "conv1_1": (64, 64, 64), "pool1": (64, 32, 32), "conv3_3": (256, 16, 16), "pool4": (512, 4, 4),
    }  # fmt: skip
    torch.testing.assert_close(maps["conv3_3"], features[:16](x))
    assert (maps["conv1_1"] >= 0).all()
    with pytest.raises(
        ValueError, match=r"--layers conv9_1: .* no such layer; choose from conv1_1, conv1_2, pool1"
    ):
        list(layer_outputs(features, x, ("conv1_1", "conv9_1"), "max"))


@pytest.mark.parametrize("pooling", POOLINGS)
def test_the_loss_is_the_relative_error_of_the_gram_matrices(pooling):
    model, a, b = tiny_vgg(), normalize(pictures(2, 16)), normalize(pictures(2, 16, seed=1))
    loss = texture_loss(model, a, ("conv1_1", "pool1"), (2.0, 3.0), pooling)
    pool = nn.MaxPool2d(2) if pooling == "max" else nn.AvgPool2d(2)
    total = torch.zeros(2)
    for weight, maps in ((2, model[:2]), (3, nn.Sequential(*model[:2], pool))):
        wanted = gram(maps(a))
        total += weight * ((gram(maps(b)) - wanted).norm(dim=(1, 2)) / wanted.norm(dim=(1, 2))) ** 2
    torch.testing.assert_close(loss(b), total)
    torch.testing.assert_close(loss(a), torch.zeros(2))


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
@pytest.mark.parametrize("start", STARTS)
def test_textures_match_the_gram_matrices_by_orders_better_than_the_start(
    optimizer, start, tmp_path
):
    settings = {"optimizer": optimizer, "start": start, "steps": 150}
    smooth = nn.functional.interpolate(pictures(2, 6).float(), (24, 24), mode="bicubic").clamp(
        0, 255
    )
    columns = synthesise(tmp_path, smooth.to(torch.uint8), **settings)
    assert (
        columns["loss"] < columns["loss_start"] / (10**4 if optimizer == "lbfgs" else 100)
    ).all()
    assert (columns["loss"] > 0).all()


@pytest.mark.parametrize("method", [lbfgs, adam])
def test_no_image_of_a_batch_knows_of_another(method):
    model, images = tiny_vgg().double(), pictures(3, 16)
    targets = normalize(images, torch.float64)
    start = starts(images, torch.arange(3), "noise", 0).double()

    def synthesised(rows):
        loss = texture_loss(model, targets[rows], LAYERS, (1.0,) * 3, "average")
        return deque(method(lambda z: loss(normalised(z)), start[rows], 25), maxlen=1)[0]

    together = synthesised(slice(None))
    for row in range(3):
        torch.testing.assert_close(together[row, None], synthesised([row]), rtol=1e-6, atol=1e-8)


def test_the_start_is_drawn_by_seed_and_number_whatever_the_batch():
    images, ids = pictures(3, 16), torch.tensor([4, 9, 2])
    for start in STARTS:
        together = starts(images, ids, start, 0)
        assert torch.equal(starts(images[1:2], ids[1:2], start, 0)[0], together[1])
        assert not torch.equal(starts(images, ids, start, 1), together)


def test_the_pixels_of_an_image_in_random_order_are_all_there():
    images = pictures(2, 16)
    images[0, :, 0, :2] = torch.tensor([0, 255])
    z = starts(images, torch.arange(2), "pixels", 0)
    found = z.sigmoid().mul(255).round().clamp(1, 254).to(torch.uint8)
    expected = images.clamp(1, 254)
    assert not torch.equal(found, expected)
    for a, b in zip(found.flatten(2), expected.flatten(2), strict=True):
        assert sorted(a.T.tolist()) == sorted(b.T.tolist())


def test_pictures_are_written_by_number_and_are_the_same_again(tmp_path):
    images = pictures(2, 16)
    synthesise(tmp_path / "a", images, first=7, steps=5)
    synthesise(tmp_path / "b", images, first=7, steps=5)
    assert sorted(p.name for p in (tmp_path / "a").iterdir()) == ["00000007.png", "00000008.png"]
    a = read_pictures(tmp_path / "a", torch.tensor([8, 7]))
    assert (a.shape, a.dtype) == ((2, 3, 16, 16), torch.uint8)
    assert torch.equal(a, read_pictures(tmp_path / "b", torch.tensor([8, 7])))
    assert (
        picture_file(tmp_path / "a", 7).read_bytes() == picture_file(tmp_path / "b", 7).read_bytes()
    )
    assert not torch.equal(a[0], a[1])


def test_only_a_vgg_can_describe_textures(tmp_path):
    model = BagNet(9, 4, width=2)
    torch.save(model.state_dict(), tmp_path / "weights.pth")
    with pytest.raises(ValueError, match=r"bagnet9 .*is no VGG"):
        TextureNetwork("bagnet9", tmp_path / "weights.pth").load(torch.device("cpu"), 7)


def test_a_vgg_of_other_classes_will_do(tmp_path, monkeypatch):
    vgg = nn.Module()
    vgg.features = tiny_vgg().requires_grad_(True)
    monkeypatch.setattr(textures, "load_model", lambda path, name: vgg)
    features = TextureNetwork("vgg16", tmp_path / "weights.pth").load(torch.device("cpu"), 7)
    assert features is vgg.features
    assert not any(weights.requires_grad for weights in features.parameters())


def test_each_layer_needs_a_weight():
    with pytest.raises(ValueError, match=r"2 weights for 3 layers .*--layer_weights"):
        texture_loss(tiny_vgg(), normalize(pictures(1, 16)), LAYERS, (1.0, 1.0), "max")
