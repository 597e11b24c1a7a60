"""Networks by name, and the normalisation of their input."""

from __future__ import annotations

import runpy
import sys

import pytest
import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from bagnet.model import registry as models
from bagnet.model.images import IMAGENET_MEAN, IMAGENET_STD
from bagnet.model.network import BagNet
from bagnet.model.registry import (
    BAGNETS,
    build_model,
    normalize,
)


@pytest.mark.parametrize(("name", "patch"), BAGNETS.items())
def test_a_bagnet_has_the_patch_of_its_name(name, patch):
    with torch.device("meta"):
        model = build_model(name, num_classes=7, width=8)
    assert isinstance(model, BagNet)
    assert model.receptive_field == patch
    assert model.features(torch.empty(2, 3, 81, 81, device="meta")).shape[1] == 32 * 8
    assert model.fc.out_features == 7


def test_a_bagnet_of_any_receptive_field_has_a_name():
    with torch.device("meta"):
        named, general = build_model("bagnet29", 7, 8), build_model("bagnet-2-2-1-0", 7, 8)
        assert build_model("bagnet-0-1-0-1", 7, 8).receptive_field == 3 + 2 * (2 + 8)
    assert str(named) == str(general)
    assert general.receptive_field == 29


@pytest.mark.parametrize("name", ["bagnet-4-1-1-1", "bagnet-1-1-1", "bagnet34", "bagnet-"])
def test_names_of_no_bagnet_are_refused(name):
    with pytest.raises(
        ValueError, match=r"blocks3x3=\(4, 1, 1, 1\)|choose one of .*bagnet-2-2-1-0"
    ):
        build_model(name)


@pytest.mark.parametrize(
    ("name", "parameters"),  # at 1000 classes, from torchvision's documentation
    [
        ("alexnet", 61_100_840),
        ("vgg11", 132_863_336),
        ("vgg16", 138_357_544),
        ("vgg19", 143_667_240),
        ("resnet50", 25_557_032),
        ("resnet152", 60_192_808),
        ("densenet169", 14_149_480),
    ],
)
def test_torchvision_networks(name, parameters):
    with torch.device("meta"):
        model, small = build_model(name), build_model(name, num_classes=10)
    assert sum(p.numel() for p in model.parameters()) == parameters
    assert [m for m in small.modules() if isinstance(m, nn.Linear)][-1].out_features == 10


@pytest.mark.parametrize("name", models.TORCHVISION)
def test_a_narrow_network_has_a_share_of_the_channels_everywhere(name):
    with torch.device("meta"):
        whole, narrow = build_model(name, 10), build_model(name, 10, width=16)
        assert narrow(torch.empty(2, 3, 64, 64)).shape == (2, 10)
    before, after = whole.state_dict(), narrow.state_dict()
    assert before.keys() == after.keys()
    layers = [key for key in before if before[key].ndim > 1]
    for key, weights in after.items():
        if weights.ndim:
            outputs, *inputs = before[key].shape
            is_last = key.rpartition(".")[0] == layers[-1].rpartition(".")[0]
            assert weights.shape[0] == (outputs if is_last else outputs // 4), key
            if inputs:
                assert weights.shape[1] == (3 if key == layers[0] else inputs[0] // 4), key
                assert weights.shape[2:] == before[key].shape[2:], key
    assert {type(weights) for weights in narrow.parameters()} == {nn.Parameter}
    assert [m.in_channels for m in narrow.modules() if isinstance(m, nn.Conv2d)][:1] == [3]
    for layer in narrow.modules():  # attributes match the weights
        if isinstance(layer, nn.Conv2d):
            assert (layer.out_channels, layer.in_channels) == layer.weight.shape[:2]
        elif isinstance(layer, nn.Linear):
            assert (layer.out_features, layer.in_features) == layer.weight.shape
        elif isinstance(layer, nn.BatchNorm2d):
            assert layer.num_features == len(layer.weight) == len(layer.running_var)


def test_signals_keep_their_size_in_a_narrow_network():
    """Without normalisation, a network whose weights are too small would not learn."""
    torch.manual_seed(0)
    images = torch.randn(8, 3, 64, 64)
    sizes = []
    for width in (64, 16):
        model = build_model("alexnet", 10, width).eval()
        with torch.no_grad():
            sizes.append(model(images).std().item())
    assert 0.4 < sizes[1] / sizes[0] < 2.5


@pytest.mark.parametrize(
    ("name", "width", "offer"),
    [("vgg16", 0, "widths of 1 to 64"), ("alexnet", 65, "1 to 64"), ("densenet169", 15, "even")],
)
def test_a_width_that_a_network_does_not_come_in(name, width, offer):
    with pytest.raises(ValueError, match=f"width={width}: {name} comes in.*{offer}"):
        build_model(name, width=width)


def test_an_unknown_name_is_an_error_that_lists_the_known():
    with pytest.raises(ValueError, match=r"no model 'bagnet12'.*bagnet9.*densenet169"):
        build_model("bagnet12")


def test_bagnets_need_no_torchvision(monkeypatch):
    monkeypatch.setitem(sys.modules, "torchvision", None)  # so that importing it fails
    monkeypatch.setitem(sys.modules, "torchvision.models", None)
    build = runpy.run_path(models.__file__)["build_model"]
    assert isinstance(build("bagnet9", num_classes=2, width=1), BagNet)
    with pytest.raises(ImportError):
        build("alexnet")


@pytest.fixture
def pixels() -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.randint(0, 256, (2, 3, 5, 7), dtype=torch.uint8, generator=generator)


@pytest.mark.parametrize(
    ("dtype", "tolerance"),
    [
        (torch.float64, 1e-13),
        (torch.float32, 1e-6),
        (torch.bfloat16, 2**-8),
        (torch.float16, 2**-11),
    ],
)
def test_normalize_is_that_of_imagenet(pixels, dtype, tolerance):
    before = pixels.clone()
    mean = torch.tensor(IMAGENET_MEAN, dtype=torch.float64).view(3, 1, 1)
    std = torch.tensor(IMAGENET_STD, dtype=torch.float64).view(3, 1, 1)
    expected = (pixels.double() / 255 - mean) / std
    result = normalize(pixels, dtype)
    assert result.dtype == dtype
    # One rounding of the exact value, also in half precision.
    torch.testing.assert_close(result.double(), expected, rtol=tolerance, atol=1e-6)
    assert torch.equal(pixels, before)


def test_normalize_gives_float32_and_keeps_the_memory_format(pixels):
    result = normalize(pixels.to(memory_format=torch.channels_last))
    assert result.is_contiguous(memory_format=torch.channels_last)
    assert result.dtype == torch.float32
    assert torch.equal(result, normalize(pixels))
    assert normalize(pixels).is_contiguous()


def test_normalising_copies_nothing_from_the_host():
    """A CUDA graph cannot contain such a copy."""
    devices = set()

    class Watch(TorchDispatchMode):
        def __torch_dispatch__(self, function, types, args=(), kwargs=None):
            result = function(*args, **(kwargs or {}))
            tensors = [each for each in (*args, result) if isinstance(each, torch.Tensor)]
            devices.update(tensor.device.type for tensor in tensors)
            return result

    images = torch.empty((2, 3, 5, 5), dtype=torch.uint8, device="meta")
    with Watch():
        assert normalize(images).device.type == "meta"
    assert devices == {"meta"}


@pytest.mark.parametrize("spoil", [torch.Tensor.float, lambda x: x[0], lambda x: x[:, :1]])
def test_normalize_takes_nothing_but_rgb_bytes(pixels, spoil):
    wrong = spoil(pixels)
    with pytest.raises(ValueError, match="uint8 images") as error:
        normalize(wrong)
    assert str(tuple(wrong.shape)) in str(error.value)
    assert str(wrong.dtype) in str(error.value)
