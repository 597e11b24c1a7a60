"""Interactions of networks for which they are known."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from bagnet.experiments.decisions.interactions import Interactions, effects, masked
from bagnet.experiments.measuring.masking import every_second
from bagnet.model.registry import normalize
from tests.bagnet.experiments.bags import Linear, pictures, tiny_bagnet


def measure(model, images, **settings):
    defaults = {
        "sides": (8,),
        "fill": "mean",
        "gaps": (0, 8),
        "pair_side": 8,
        "pairs": 2,
        "seed": 0,
    }
    count = len(images)
    labels, ids = torch.zeros(count, dtype=torch.long), torch.arange(count)
    return Interactions(**defaults | settings)(model, images, labels, ids)


def test_a_linear_bag_of_pixels_has_no_interactions():
    columns = measure(Linear(48), pictures(20, 48), fill="zero", sides=(8, 16))
    for side in (8, 16):
        joint, total = columns[f"all_{side}"], columns[f"sum_{side}"]
        assert np.abs(joint).min() > 0
        assert np.corrcoef(joint, total)[0, 1] == pytest.approx(1, abs=1e-6)
        np.testing.assert_allclose(joint, total, rtol=1e-3, atol=1e-2)
    for gap in (0, 8):
        assert (columns[f"excess_{gap}"] < 1e-4 * columns[f"change_{gap}"].mean()).all()


@pytest.mark.parametrize(
    ("patch", "side", "fill"),
    [(9, 8, "mean"), (9, 16, "blur"), (17, 16, "blur"), (33, 32, "mean")],
)
def test_squares_do_not_interact_if_no_patch_of_a_bagnet_sees_two(patch, side, fill):
    model = tiny_bagnet(patch)
    height, width = 3 * side if side < 32 else side + 1, 3 * side
    x = normalize(pictures(2, width)[..., :height, :], torch.float64)
    boxes = every_second(height, width, side)
    assert len(boxes) > 1
    joint, alone = effects(model, x, torch.tensor([0, 3]), boxes, fill)
    assert joint.abs().min() > 1e-6
    torch.testing.assert_close(joint, alone.sum(0), rtol=1e-9, atol=1e-12)


def test_interactions_of_a_bagnet_end_at_its_patch():
    """With a gap of R - 2 pixels, a patch of R that starts where one square ends just sees both."""
    model = tiny_bagnet(17, width=8)
    x = normalize(pictures(2, 48)[..., :24, :], torch.float64)
    first = (8, 8, 17, 17)  # the patch that starts at (16, 16) sees its last pixel
    targets = torch.tensor([0, 1])
    excess = {}
    for gap in (15, 16):
        left = 17 + gap
        joint, alone = effects(model, x, targets, [first, (8, left, 17, left + 9)], "mean")
        excess[gap] = (joint - alone.sum(0)).abs().max().item()
    assert excess[15] > 1e-8
    assert excess[16] < 1e-14


class Product(torch.nn.Module):
    """The product of what two halves of the image hold."""

    def forward(self, x):
        left, right = x.mean((1, 2)).tensor_split(2, dim=1)
        value = left.mean(1) * right.mean(1)
        return torch.stack([torch.zeros_like(value), value], dim=1)


def test_the_change_of_all_and_the_sum_of_the_changes_are_those_of_the_definition():
    x = torch.ones(1, 3, 8, 24)
    boxes = every_second(8, 24, 8)
    assert boxes == [(0, 0, 8, 8), (0, 16, 8, 24)]
    joint, alone = effects(Product(), x, torch.tensor([1]), boxes, "zero")
    # Each square is two thirds of its half: one leaves 1/3 of the product, both leave 1/9.
    torch.testing.assert_close(joint, torch.tensor([8 / 9]).double())
    torch.testing.assert_close(alone, torch.full((2, 1), 2 / 3).double())


def test_images_are_measured_the_same_in_any_batch():
    model, images = tiny_bagnet(9).float(), pictures(4, 32)
    together = measure(model, images)
    alone = [measure(model, image[None]) for image in images]
    for name, column in together.items():
        rows = np.concatenate([columns[name] for columns in alone])
        np.testing.assert_allclose(column, rows, rtol=1e-4, atol=1e-6, err_msg=name)


def test_the_pictures_have_the_squares_that_are_measured_and_nothing_else_changes():
    images = pictures(2, 224)
    columns = masked(images, (8, 64), "mean")
    # The shares of a square image of 224 pixels.
    assert list(columns) == ["as it is", "8 px: 25.0%", "64 px: 32.7%"]
    assert torch.equal(columns["as it is"], images)
    for side, found in zip((8, 64), list(columns.values())[1:], strict=True):
        expected = images.clone()
        for top, left, bottom, right in every_second(224, 224, side):
            box = expected[..., top:bottom, left:right]
            box.copy_(box.float().mean((2, 3), keepdim=True).round().to(torch.uint8))
        assert (found.int() - expected.int()).abs().max() <= 1
        assert torch.equal(found[..., side : 2 * side, :], images[..., side : 2 * side, :])
