from __future__ import annotations

import sys

import pytest
import torch
from torch import nn

from bagnet.model.registry import build_model
from bagnet.training.recipe.optim import build_optimizer, parameter_groups


class Quadratic(nn.Module):
    """Its optimum is 1 everywhere."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(4, 4))

    def forward(self) -> torch.Tensor:
        return ((self.weight - 1) ** 2).mean()


@pytest.mark.parametrize(
    ("name", "arguments"),
    [
        ("sgd", {"nesterov": True}),
        ("adamw", {"betas": [0.9, 0.95]}),
        ("lamb", {}),
        ("lars", {"trust_coeff": 0.1}),
        ("muon", {}),
    ],
)
def test_optimizers_by_name(name, arguments):
    model = Quadratic()
    groups = [{"params": [model.weight], "weight_decay": 0.0}]
    optimizer = build_optimizer(
        name, groups, lr=0.05, momentum=0.5, fused=False, arguments=arguments
    )
    before = model().item()
    for _ in range(20):
        optimizer.zero_grad()
        model().backward()
        optimizer.step()
    assert model().item() < before
    for key, value in arguments.items():
        assert optimizer.param_groups[0][key] == (tuple(value) if key == "betas" else value)


@pytest.mark.parametrize(
    ("name", "arguments", "message"),
    [
        ("sgd", {"nestrov": True}, "optimizer sgd .*nestrov"),
        ("adamw", {"betas": [2, 0.9]}, "optimizer adamw .*beta"),
        ("adamm", {}, "optimizer adamm "),
    ],
)
def test_wrong_optimizers_are_named(name, arguments, message):
    groups = [{"params": [nn.Parameter(torch.zeros(2))]}]
    with pytest.raises(ValueError, match=message):
        build_optimizer(name, groups, lr=0.1, momentum=0.9, fused=False, arguments=arguments)


def test_other_optimizers_than_torchs_need_timm(monkeypatch):
    monkeypatch.setitem(sys.modules, "timm.optim", None)
    with pytest.raises(ValueError, match="pip install timm"):
        build_optimizer("lamb", [], lr=0.1, momentum=0.9, fused=False, arguments={})


def test_groups_follow_the_type_of_the_module_and_have_each_parameter_once():
    model = build_model("bagnet9", num_classes=4, width=8)
    decayed, rest = parameter_groups(model, 1e-4, decay_norm=False)
    assert (decayed["weight_decay"], rest["weight_decay"]) == (1e-4, 0)
    weights = {m.weight for m in model.modules() if isinstance(m, nn.Conv2d | nn.Linear)}
    assert set(decayed["params"]) == weights
    assert len(decayed["params"]) + len(rest["params"]) == len(list(model.parameters()))
    assert set(rest["params"]) | weights == set(model.parameters())


def test_the_papers_recipe_decays_everything():
    model = build_model("bagnet9", num_classes=4, width=8)
    (group,) = parameter_groups(model, 1e-4, decay_norm=True)
    assert len(group["params"]) == len(list(model.parameters()))
    torch.optim.SGD([group], lr=1)  # accepts the group
