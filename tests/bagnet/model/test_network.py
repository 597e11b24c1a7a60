"""The network against the reference's outputs, the counts of the paper, and gradients."""

from __future__ import annotations

import copy
import json
import re
from pathlib import Path
from zlib import crc32

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F
from torch.utils.flop_counter import FlopCounterMode

from bagnet.model.network import BagNet

GOLDEN = Path(__file__).parent / "golden"


def formula(salt: str, name: str, shape: list[int]) -> np.ndarray:
    """The pseudo-random numbers of `name`, in [0, 1), from which the golden figures are made."""
    i = np.arange(np.prod(shape, dtype=int), dtype=np.float64)
    v = 43758.5453 * np.sin(12.9898 * i + 0.618 * (crc32((salt + name).encode()) % 100003))
    return (v - np.floor(v)).reshape(shape)


def golden_tensor(salt: str, name: str, shape: list[int]) -> torch.Tensor:
    u = formula(salt, name, shape)
    if name.endswith("num_batches_tracked"):
        return torch.tensor(0)
    if len(shape) == 4:
        value = (2 * u - 1) * np.sqrt(6 / np.prod(shape[1:]))
    elif len(shape) == 2:
        value = (2 * u - 1) * np.sqrt(3 / shape[1])
    elif name.endswith("running_var"):
        value = 0.5 + u
    elif name.endswith(("running_mean", "bias")):
        value = (2 * u - 1) * 0.2
    else:
        value = 0.5 + 0.5 * u
    return torch.from_numpy(value)


def golden_image(golden: dict, height: int, width: int) -> torch.Tensor:
    return torch.from_numpy(4 * formula(golden["salt"], "image", [1, 3, height, width]) - 2)


@pytest.fixture(scope="module", params=[9, 17, 33])
def reference(request) -> tuple[dict, BagNet]:
    """The golden figures, and our network in float64 with the weights that gave them."""
    golden = json.loads((GOLDEN / f"bagnet{request.param}.json").read_text())
    model = BagNet(golden["patch"]).double().eval()
    weights = {n: golden_tensor(golden["salt"], n, s) for n, s in golden["state_dict"].items()}
    model.load_state_dict(weights, strict=True)
    return golden, model.requires_grad_(False)


@pytest.fixture(scope="module")
def small() -> BagNet:
    torch.manual_seed(0)
    model = BagNet(17, num_classes=5, width=4).double()
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.running_var, 0.5, 1.5)
            nn.init.normal_(module.running_mean, 0, 0.1)
    return model.eval()


def images(height: int, width: int) -> torch.Tensor:
    return torch.randn(
        2, 3, height, width, dtype=torch.float64, generator=torch.Generator().manual_seed(1)
    )


def test_names_and_shapes_are_those_of_the_reference(reference):
    golden, model = reference
    assert {n: list(t.shape) for n, t in model.state_dict().items()} == golden["state_dict"]


@pytest.mark.parametrize(
    "size", [(64, 64), (97, 131), pytest.param((224, 224), marks=pytest.mark.slow)]
)
def test_outputs_are_those_of_the_reference(reference, size):
    golden, model = reference
    (figures,) = [g for g in golden["logits"] if (g["height"], g["width"]) == size]
    map_size = (figures["map_height"], figures["map_width"])
    assert model.map_size(*size) == map_size
    image = golden_image(golden, *size)
    evidence = model.logits_map(image)[0]
    assert evidence.shape == (1000, *map_size)
    np.testing.assert_allclose(evidence[7].flatten(), figures["class_7_map"], rtol=1e-6)
    logits = figures["mean_logits"]
    np.testing.assert_allclose(evidence[:64].mean((1, 2)), logits, rtol=1e-6, atol=0)
    single = copy.deepcopy(model).float()(image.float())[0, :64]
    np.testing.assert_allclose(single, logits, rtol=1e-4, atol=1e-5 * np.abs(logits).max())


@pytest.mark.slow
def test_windows_at_every_pixel_give_the_dense_heatmap_of_the_reference(reference):
    golden, model = reference
    figures = golden["dense_heatmap"]
    height, width, step = figures["height"], figures["width"], model.stride
    image = F.pad(golden_image(golden, height, width), [(golden["patch"] - 1) // 2] * 4)
    heatmap = torch.zeros(height, width, dtype=torch.float64)
    # The map of the image shifted by (y, x) has the windows at (y + 8i, x + 8j).
    for y, x in np.ndindex(step, step):
        heatmap[y::step, x::step] = model.logits_map(image[..., y:, x:])[0, figures["target"]]
    np.testing.assert_allclose(heatmap.flatten(), figures["values"], rtol=1e-6)


@pytest.mark.parametrize(
    ("patch", "parameters", "giga_madds", "entries"),
    [
        (33, 18_310_184, 16.26, 24),
        (17, 16_213_032, 15.65, 26),
        (9, 15_688_744, 15.93, 27),
    ],
)
def test_counts_at_224_pixels(patch, parameters, giga_madds, entries):
    with torch.device("meta"):
        model, image = BagNet(patch), torch.empty(1, 3, 224, 224)
    assert sum(p.numel() for p in model.parameters()) == parameters
    assert model.map_size(224, 224) == (entries, entries)
    with FlopCounterMode(display=False) as counter:
        model(image)
    assert counter.get_total_flops() / 2e9 == pytest.approx(giga_madds, abs=0.005)


def test_forward_is_the_mean_of_the_map_and_the_map_the_classified_features(small):
    x = images(60, 45)
    evidence = small.logits_map(x)
    assert small.features(x).shape == (2, 32 * 4, *evidence.shape[2:])
    torch.testing.assert_close(small(x), evidence.mean((2, 3)))
    features = small.features(x)[1, :, 3, 2]
    torch.testing.assert_close(evidence[1, :, 3, 2], small.fc(features))


def test_a_map_entry_is_the_output_on_its_box_alone(small):
    x = images(60, 45)
    evidence = small.logits_map(x)
    for i, j in [(0, 0), (5, 3), (2, 1)]:
        top, left, bottom, right = small.box(i, j)
        torch.testing.assert_close(small(x[..., top:bottom, left:right]), evidence[:, :, i, j])


@pytest.mark.parametrize(
    ("patch", "blocks3x3", "strides"),
    [
        (9, None, (2, 2, 2, 1)),
        (17, None, (2, 2, 2, 1)),
        (33, None, (2, 2, 2, 1)),
        (25, None, (2, 2, 2, 1)),
        (29, None, (2, 2, 2, 1)),
        (65, None, (2, 2, 2, 1)),
        (77, None, (2, 2, 2, 1)),
        (17, (1, 1, 1, 0), (2, 2, 2, 2)),
        (23, (1, 2, 3, 0), (1, 2, 1, 3)),  # 3 + 2 (1 + 1 + 2 + 2 + 2 + 2)
    ],
)
def test_gradients_touch_exactly_the_box(patch, blocks3x3, strides):
    model = BagNet(patch, 1, 2, blocks3x3=blocks3x3, strides=strides).double().eval()
    for parameter in model.parameters():  # all positive, so no ReLU is zero and nothing cancels
        if parameter.ndim > 1:
            nn.init.constant_(parameter, 1 / parameter[0].numel())
    height, width = patch + 2 * model.stride + 1, patch + 2 * model.stride - 1
    x = torch.ones(1, 3, height, width, dtype=torch.float64, requires_grad=True)
    evidence = model.logits_map(x)[0, 0]
    assert evidence.shape == model.map_size(height, width) == (3, 2)
    assert model.receptive_field == patch
    for i, j in np.ndindex(3, 2):
        (gradient,) = torch.autograd.grad(evidence[i, j], x, retain_graph=True)
        top, left, bottom, right = model.box(i, j)
        seen = torch.zeros(height, width, dtype=torch.bool)
        seen[top:bottom, left:right] = True
        assert torch.equal(gradient[0].ne(0).all(0), seen)
        assert torch.equal(gradient[0].ne(0).any(0), seen)


@pytest.mark.parametrize("size", [(17, 17), (17, 200), (24, 25), (25, 24), (131, 97)])
def test_map_size_of_any_image(small, size):
    assert small.logits_map(images(*size)).shape[2:] == small.map_size(*size)


@pytest.mark.parametrize("call", ["forward", "logits_map", "features"])
@pytest.mark.parametrize("size", [(16, 40), (40, 16)])
def test_an_image_smaller_than_the_patch_is_an_error_that_names_both(small, call, size):
    message = re.escape(f"{size[0]}x{size[1]} pixels is smaller than the patch of 17x17")
    with pytest.raises(ValueError, match=message):
        getattr(small, call)(images(*size))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"patch": 12}, "patch=12: choose one of 9, 17, "),
        ({"blocks3x3": (2, 2, 1, 0)}, "29 pixels, not 33: pass patch=29"),
        ({"patch": 29, "blocks3x3": (4, 2, 1, 0)}, r"blocks3x3=\(4, 2, 1, 0\)"),
        ({"patch": 29, "blocks3x3": (2, 2, 1)}, "four counts"),
        ({"strides": (2, 2, 0, 1)}, r"strides=\(2, 2, 0, 1\)"),
        ({"num_classes": 0}, "num_classes=0"),
        ({"width": 0}, "width=0"),
        ({"in_channels": -1}, "in_channels=-1"),
    ],
)
def test_what_cannot_be_built_is_an_error(arguments, message):
    with torch.device("meta"), pytest.raises(ValueError, match=message):
        BagNet(**arguments)


def test_in_channels_and_width():
    model = BagNet(9, num_classes=3, width=2, in_channels=1).eval()
    assert model(torch.rand(4, 1, 20, 30)).shape == (4, 3)
    assert model.features(torch.rand(1, 1, 9, 9)).shape == (1, 64, 1, 1)


def test_initial_weights_are_he_normal_by_fan_out():
    torch.manual_seed(0)
    model = BagNet(33, num_classes=2, width=16)
    for name, module in model.named_modules():
        if isinstance(module, nn.Conv2d) and module.weight.numel() > 5000:
            fan_out = module.out_channels * module.kernel_size[0] ** 2
            assert module.weight.std().item() == pytest.approx((2 / fan_out) ** 0.5, rel=0.05), name
        if isinstance(module, nn.BatchNorm2d):
            assert module.weight.eq(1).all()
            assert module.bias.eq(0).all()


def test_every_parameter_learns():
    torch.manual_seed(0)
    model = BagNet(33, num_classes=3, width=2)
    model(torch.randn(4, 3, 49, 41)).logsumexp(1).sum().backward()
    assert [n for n, p in model.named_parameters() if not p.grad.abs().sum() > 0] == []


def test_channels_last_changes_no_number(small):
    x = images(41, 57)
    model = copy.deepcopy(small).to(memory_format=torch.channels_last)
    x_last = x.to(memory_format=torch.channels_last)
    assert model.features(x_last).is_contiguous(memory_format=torch.channels_last)
    torch.testing.assert_close(model.logits_map(x_last), small.logits_map(x))
