"""Dense evidence: equal to the network on every patch, for any image, in bounded memory."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.flop_counter import FlopCounterMode

from bagnet.evidence import dense
from bagnet.evidence.dense import dense_evidence
from bagnet.evidence.maps import evidence_map
from bagnet.model.network import BagNet
from tests.bagnet.evidence.networks import network
from tests.bagnet.model.test_network import GOLDEN, golden_image, golden_tensor

REPOSITORY = Path(__file__).parents[3]


def patch_by_patch(model: BagNet, image: Tensor) -> Tensor:
    """The definition: the network on the patch around every pixel, (classes, H, W)."""
    side = model.receptive_field
    padded = F.pad(image, [(side - 1) // 2] * 4)
    patches = padded.unfold(1, side, 1).unfold(2, side, 1)  # (3, H, W, side, side)
    rows = [model(patches[:, y].transpose(0, 1)) for y in range(image.shape[1])]
    return torch.stack(rows).permute(2, 0, 1)


def picture(height: int, width: int) -> Tensor:
    generator = torch.Generator().manual_seed(height * 1000 + width)
    return torch.randn(3, height, width, dtype=torch.float64, generator=generator)


@pytest.mark.parametrize("patch", [9, 17, 33])
def test_it_is_the_dense_heatmap_of_the_reference(patch):
    golden = json.loads((GOLDEN / f"bagnet{patch}.json").read_text())
    model = BagNet(patch).double()
    weights = {n: golden_tensor(golden["salt"], n, s) for n, s in golden["state_dict"].items()}
    model.load_state_dict(weights, strict=True)
    figures = golden["dense_heatmap"]
    image = golden_image(golden, figures["height"], figures["width"])[0]
    heatmap = dense_evidence(model, image, figures["target"])
    np.testing.assert_allclose(heatmap.flatten(), figures["values"], rtol=1e-6)


@torch.no_grad()
@pytest.mark.parametrize("patch", [9, 17, 25, 29, 33, 65])
@pytest.mark.parametrize("tile", [5, 64])
def test_it_is_the_network_on_every_patch_for_images_of_any_size(patch, tile, monkeypatch):
    monkeypatch.setattr(dense, "TILE", tile)
    model = network(patch)
    rng = np.random.default_rng(patch + tile)
    for size in [(1, 1), (8, 3), *rng.integers(1, 24, (3, 2)).tolist()]:
        image = picture(*size)
        expected = patch_by_patch(model, image)  # (4, height, width)
        torch.testing.assert_close(dense_evidence(model, image), expected, rtol=1e-9, atol=1e-12)


@torch.no_grad()
def test_strides_of_any_size_become_dilations():
    torch.manual_seed(0)
    strides = (3, 1, 2, 2)
    model = BagNet(35, 2, 2, blocks3x3=(1, 2, 1, 1), strides=strides).double().eval()
    image = picture(9, 14)
    torch.testing.assert_close(dense_evidence(model, image), patch_by_patch(model, image))


def test_away_from_the_border_it_is_the_map_of_the_network():
    model, image = network(17), picture(45, 60)
    margin = (model.receptive_field - 1) // 2
    inside = dense_evidence(model, image)[:, margin:-margin, margin:-margin]
    stride = model.stride
    torch.testing.assert_close(inside[:, ::stride, ::stride], evidence_map(model, image[None])[0])


def test_a_target_gives_one_map_several_give_several_and_none_gives_all():
    model, image = network(9), picture(10, 11)
    everything = dense_evidence(model, image)
    torch.testing.assert_close(dense_evidence(model, image, 2), everything[2])
    torch.testing.assert_close(dense_evidence(model, image, [3, 0, 3]), everything[[3, 0, 3]])


def test_float32_is_close_and_stays_float32():
    model, image = network(33, width=8), picture(20, 20)
    exact = dense_evidence(model, image)
    rounded = dense_evidence(model.float(), image.float())
    assert rounded.dtype == torch.float32
    torch.testing.assert_close(rounded.double(), exact, rtol=1e-4, atol=1e-4)


def test_the_network_is_not_changed_in_any_mode():
    model, image = network(17), picture(12, 12)
    expected = dense_evidence(model, image)
    model.train()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    evidence = dense_evidence(model, image)
    torch.testing.assert_close(evidence, expected, rtol=0, atol=0)
    assert not evidence.requires_grad
    assert all(module.training for module in model.modules())
    torch.testing.assert_close(dict(model.state_dict()), before, rtol=0, atol=0)


def test_it_takes_a_tenth_of_the_multiply_adds():
    with torch.device("meta"):
        model = BagNet(33).eval()
        image, patch = torch.empty(3, 224, 224), torch.empty(1, 3, 33, 33)
    with FlopCounterMode(display=False) as dense_counter:
        dense_evidence(model, image, 0)
    with FlopCounterMode(display=False) as patch_counter:
        model(patch)
    tera = dense_counter.get_total_flops() / 2e12
    assert tera == pytest.approx(1.03, abs=0.005)
    assert 224 * 224 * patch_counter.get_total_flops() / 2e12 == pytest.approx(10.2, abs=0.05)


MEASURE = """
import resource, torch
from bagnet.evidence.dense import dense_evidence
from bagnet.model.network import BagNet
torch.set_num_threads(1)
model = BagNet(33, num_classes=20, width=2)
megabytes = []
for side in (128, 1024):
    dense_evidence(model, torch.zeros(3, side, side))
    megabytes.append(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)
print(*megabytes)
"""


def test_no_layer_sees_more_than_a_tile_of_a_large_image(monkeypatch):
    convolve, values = F.conv2d, []

    def record(*arguments, **options):
        result = convolve(*arguments, **options)
        values.append(result.numel())
        return result

    monkeypatch.setattr(F, "conv2d", record)
    with torch.device("meta"):
        model = BagNet(33, num_classes=20, width=2)
        dense_evidence(model, torch.empty(3, 64, 64))
        one_tile = max(values)
        dense_evidence(model, torch.empty(3, 192, 192))
    assert max(values) == one_tile


@pytest.mark.slow
def test_besides_the_result_a_large_image_takes_no_more_memory_than_a_tile():
    run = subprocess.run(
        [sys.executable, "-c", MEASURE], cwd=REPOSITORY, capture_output=True, text=True, check=True
    )
    small, large = map(float, run.stdout.split())
    result = 20 * 1024**2 * 4 / 2**20
    image = 2 * 3 * 1056**2 * 4 / 2**20
    whole = 64 * 1024**2 * 4 / 2**20  # one activation of the last stage without tiles
    assert large - small < result + image + 40 < result + whole / 2


@pytest.mark.parametrize(
    ("image", "target", "message"),
    [
        (torch.zeros(1, 3, 9, 9), 0, r"float image \(3, H, W\).*\(1, 3, 9, 9\): take one image"),
        (torch.zeros(3, 9, 9, dtype=torch.uint8), 0, "torch.uint8.*normalise it"),
        (torch.zeros(1, 9, 9), 0, r"\(1, 9, 9\)"),
        (torch.zeros(3, 0, 9), 0, r"\(3, 0, 9\)"),
        (torch.zeros(3, 9, 9), 4, "no class 4: the network has 4 classes.* 0 to 3"),
        (torch.zeros(3, 9, 9), [0, -1], "no class -1"),
        (torch.zeros(3, 9, 9), [], "target lists no class"),
    ],
)
def test_bad_input_gets_a_clear_message(image, target, message):
    with pytest.raises(ValueError, match=message):
        dense_evidence(network(9), image, target)
    with pytest.raises(ValueError, match="Linear is not a BagNet"):
        dense_evidence(nn.Linear(2, 2), image, target)
