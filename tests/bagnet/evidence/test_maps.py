"""Evidence maps: exact, and the network is not changed."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from bagnet.evidence.maps import evidence_map
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
