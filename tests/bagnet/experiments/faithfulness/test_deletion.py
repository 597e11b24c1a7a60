"""Deletion and insertion: areas that can be worked out, and evidence against chance."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from bagnet.experiments.faithfulness.deletion import Deletion, areas
from bagnet.experiments.measuring.masking import probability_curves
from bagnet.model.network import BagNet
from datamodules.demo.pictures import SIZE
from datamodules.imagenet import ImageNetDataModule


class Counting(nn.Module):
    """The probability of class 1 is the share of the pixels that are 1."""

    def forward(self, x: Tensor) -> Tensor:
        share = x.mean((1, 2, 3)).clamp(1e-9, 1 - 1e-9)
        return torch.stack([1 - share, share], dim=1).log()


def both_areas(image: Tensor, priority: Tensor) -> list[float]:
    counts = np.linspace(0, priority.numel(), 17).round().astype(int).tolist()
    target = torch.tensor([1])
    arguments = (Counting(), image[None], target, priority[None], counts)
    curves = [
        probability_curves(*arguments, cell=8, fill="zero", insert=insert)
        for insert in (False, True)
    ]
    return [areas(curve.numpy()).item() for curve in curves]


def test_the_areas_of_a_decision_that_each_pixel_has_an_equal_part_in_are_one_half():
    priority = torch.arange(16.0).view(4, 4)
    assert both_areas(torch.ones(3, 32, 32), priority) == pytest.approx([0.5, 0.5], abs=1e-6)


@pytest.mark.parametrize("sign", [1, -1])
def test_the_largest_priority_goes_first_and_comes_first(sign):
    image = torch.zeros(3, 32, 30)  # the last cells of a row are cut off
    image[:, 8:16, 24:] = 1
    priority = torch.zeros(4, 4)
    priority[1, 3] = sign
    share = 8 * 6 / (32 * 30)
    first, last = share / 32, share * 31 / 32  # half of the first of 16 steps; all but half of one
    expected = [first, last] if sign > 0 else [last, first]
    assert both_areas(image, priority) == pytest.approx(expected, abs=1e-6)


def test_evidence_finds_what_a_decision_relies_on_sooner_than_chance(demo):
    """Whatever a network looks for: it has fresh weights and sees images of the demo."""
    torch.manual_seed(0)
    model = BagNet(9, 9, width=4).eval()
    nn.init.zeros_(model.fc.bias)  # the mean colour should look like no class more than another
    data = ImageNetDataModule(str(demo), workers=0, image_size=SIZE, resize_size=SIZE)
    (images, labels, ids), _ = data.batches("val")[0, np.arange(6)]
    measurement = Deletion(("evidence", "random"), 16, 8, "zero", "mean", 0)
    columns = measurement(model, images, labels, ids)
    area = {name: areas(column).mean() for name, column in columns.items() if name != "target"}
    assert area["deletion_evidence"] < area["deletion_random"] - 0.1
    assert area["insertion_evidence"] > area["insertion_random"] + 0.03
