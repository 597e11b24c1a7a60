"""Evidence maps: exact, and the network is not changed."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from bagnet.evidence.maps import evidence_map, pixel_evidence
from bagnet.model.network import BagNet
from tests.bagnet.evidence.networks import network


@pytest.fixture
def model() -> BagNet:
    return network(9, width=4, classes=3)


def test_an_entry_is_the_logits_of_its_patch_and_the_mean_those_of_the_image(model: BagNet) -> None:
    images = torch.randn(2, 3, 30, 41, dtype=torch.float64)
    evidence = evidence_map(model, images)
    assert evidence.shape == (2, 3, *model.map_size(30, 41))
    for i, j in np.ndindex(*evidence.shape[2:]):
        top, left, bottom, right = model.box(i, j)
        patches = images[:, :, top:bottom, left:right]
        torch.testing.assert_close(model(patches), evidence[:, :, i, j])
    torch.testing.assert_close(evidence.mean((2, 3)), model(images))


def test_the_network_is_not_changed(model: BagNet) -> None:
    model.train()
    model.layer1.eval()  # frozen, while the rest trains
    before = {name: value.clone() for name, value in model.state_dict().items()}
    modes = [module.training for module in model.modules()]
    evidence = evidence_map(model, torch.randn(2, 3, 20, 20, dtype=torch.float64))
    assert not evidence.requires_grad
    assert [module.training for module in model.modules()] == modes
    torch.testing.assert_close(dict(model.state_dict()), before, rtol=0, atol=0)
    with pytest.raises(ValueError, match="smaller than the patch"):
        evidence_map(model, torch.zeros(1, 3, 8, 8, dtype=torch.float64))
    assert [module.training for module in model.modules()] == modes


def test_other_networks_have_no_evidence() -> None:
    with pytest.raises(ValueError, match="Linear is not a BagNet"):
        evidence_map(nn.Linear(2, 2), torch.zeros(1, 3, 40, 40))


@pytest.mark.parametrize("patch", [9, 17, 33])
@pytest.mark.parametrize("size", [(33, 33), (40, 67), (51, 90)])
def test_the_shares_of_all_pixels_sum_to_the_logits_of_an_image_of_any_size(patch, size):
    model = network(patch)
    image = torch.randn(3, *size, dtype=torch.float64)
    shares = pixel_evidence(model, image)
    assert shares.shape == (4, *size)
    torch.testing.assert_close(shares.sum((1, 2)), model(image[None])[0].detach())


def test_a_pixel_has_an_equal_share_in_the_vote_of_each_patch_that_sees_it(model):
    image = torch.randn(3, 30, 41, dtype=torch.float64)
    votes = evidence_map(model, image[None])[0]
    expected = torch.zeros(3, 30, 41, dtype=torch.float64)
    for i, j in np.ndindex(*votes.shape[1:]):
        top, left, bottom, right = model.box(i, j)
        expected[:, top:bottom, left:right] += votes[:, i, j, None, None] / 9**2 / votes[0].numel()
    torch.testing.assert_close(pixel_evidence(model, image), expected)
    torch.testing.assert_close(pixel_evidence(model, image, 2), expected[2])
    torch.testing.assert_close(pixel_evidence(model, image, [2, 0]), expected[[2, 0]])
    assert pixel_evidence(model, image)[:, 26:].abs().max() == 0  # no patch reaches these rows


def test_classes_that_the_network_does_not_have_are_refused(model):
    with pytest.raises(ValueError, match="no class 3"):
        pixel_evidence(model, torch.zeros(3, 30, 41), [0, 3])
