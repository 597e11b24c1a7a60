"""Deletion and insertion: the areas where they are known, and evidence against chance."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from bagnet.experiments import deletion
from bagnet.experiments.__main__ import main
from bagnet.model.network import BagNet
from datamodules.demo.generate import generate
from datamodules.demo.pictures import SIZE

CLASSES = 9


class Counting(BagNet):
    """The probability of class 1 is the share of the pixels that are 1."""

    def forward(self, x: Tensor) -> Tensor:
        share = x.mean((1, 2, 3)).clamp(1e-9, 1 - 1e-9)
        return torch.stack([1 - share, share], dim=1).log()


def test_the_areas_of_a_decision_that_each_pixel_has_an_equal_part_in_are_one_half():
    model, image = Counting(9, 2, width=2), torch.ones(3, 32, 32)
    priority = torch.arange(16.0).view(4, 4)
    areas = deletion.areas(model, image, 1, priority)
    assert [area.item() for area in areas] == pytest.approx([0.5, 0.5], abs=1e-6)


def test_the_largest_priority_goes_first_and_comes_first():
    image = torch.zeros(3, 32, 30)  # the last cells of a row are cut off
    image[:, 8:16, 24:] = 1
    priority = torch.zeros(4, 4)
    model = Counting(9, 2, width=2)
    share = 8 * 6 / (32 * 30)
    priority[1, 3] = 1
    deleted, inserted = deletion.areas(model, image, 1, priority)
    assert deleted.item() == pytest.approx(share / 32, abs=1e-6)  # half of the first of 16 steps
    assert inserted.item() == pytest.approx(share * 31 / 32, abs=1e-6)
    priority[1, 3] = -1
    deleted, inserted = deletion.areas(model, image, 1, priority)
    assert deleted.item() == pytest.approx(share * 31 / 32, abs=1e-6)
    assert inserted.item() == pytest.approx(share / 32, abs=1e-6)


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    """A network with fresh weights, to which the mean colour looks like no class more than another."""
    torch.manual_seed(0)
    model = BagNet(9, CLASSES, width=4)
    nn.init.zeros_(model.fc.bias)
    torch.save(model.state_dict(), tmp_path / "weights.pth")
    return tmp_path / "weights.pth"


def test_evidence_finds_what_a_decision_rests_on_sooner_than_chance(checkpoint, tmp_path, capsys):
    """Whatever a network looks for: these are images of the demo, and nothing was learned."""
    generate(tmp_path / "demo", {"train": CLASSES, "val": CLASSES}, seed=0)
    words = ["deletion", "--checkpoint", str(checkpoint), "--name", "bagnet9", "--images", "6"]
    words += ["--data.root", str(tmp_path / "demo"), "--out", str(tmp_path / "out")]
    words += ["--data.image_size", str(SIZE), "--data.resize_size", str(SIZE)]
    assert main(words) == 0
    result = json.loads((tmp_path / "out" / "deletion.json").read_text())
    assert result["images"] == 6
    assert result["deletion"] < result["deletion_random"] - 0.1
    assert result["insertion"] > result["insertion_random"] + 0.03
    assert f"{result['deletion']:.3f}" in capsys.readouterr().out
