"""A folded network is the network, in fewer layers."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from bagnet.evidence.maps import evidence_map
from bagnet.model.folding import folded
from bagnet.model.network import BagNet


def bagnet(patch: int) -> BagNet:
    torch.manual_seed(0)
    model = BagNet(patch, num_classes=5, width=4)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            for tensor in (module.weight, module.running_var):
                nn.init.uniform_(tensor, 0.5, 1.5)
            for tensor in (module.bias, module.running_mean):
                nn.init.normal_(tensor, 0, 0.2)
    return model


@pytest.mark.parametrize("patch", [9, 17, 33])
def test_logits_evidence_and_gradients_of_pixels_stay(patch):
    plain = bagnet(patch).double()
    light = folded(plain)  # in training mode
    images = torch.randn(2, 3, 47, 42, dtype=torch.float64, requires_grad=True)
    found, expected = light(images), plain.eval()(images)
    torch.testing.assert_close(found, expected)
    torch.testing.assert_close(evidence_map(light, images), evidence_map(plain, images))
    gradients = [torch.autograd.grad(y.sum(), images)[0] for y in (found, expected)]
    torch.testing.assert_close(*gradients)
    single = folded(bagnet(patch))(images.detach().float())
    torch.testing.assert_close(single.double(), expected, rtol=1e-4, atol=1e-5)


def test_no_normalisation_is_left_and_nothing_trains():
    light = folded(bagnet(33))
    kinds = [type(module) for module in light.modules()]
    assert nn.BatchNorm2d not in kinds
    assert kinds.count(nn.Conv2d) == 1 + 3 * 16 + 4
    assert not light.training
    assert not any(parameter.requires_grad for parameter in light.parameters())
    with pytest.raises(ValueError, match="folded already"):
        folded(light)


def test_the_network_itself_is_not_changed():
    plain = bagnet(9)
    before = {name: tensor.clone() for name, tensor in plain.state_dict().items()}
    folded(plain)
    assert plain.training
    assert all(parameter.requires_grad for parameter in plain.parameters())
    assert all(torch.equal(before[name], t) for name, t in plain.state_dict().items())
