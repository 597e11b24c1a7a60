from __future__ import annotations

import math
import sys

import pytest
import torch
from torch import nn

from bagnet.model.registry import build_model
from bagnet.training.optim import (
    build_optimizer,
    learning_rate_factor,
    parameter_groups,
    scaled_learning_rate,
)


def test_learning_rate_scales_linearly_with_the_global_batch():
    assert scaled_learning_rate(0.01, 256) == 0.01
    assert scaled_learning_rate(0.01, 1024) == 0.04


def factors(moments: list[float], **settings: object) -> list[float]:
    defaults = {"schedule": "step", "epochs": 90, "warmup_epochs": 0, "decay_every": 30}
    return [learning_rate_factor(epoch, **{**defaults, **settings}) for epoch in moments]


def test_the_papers_schedule_divides_by_ten_every_30_epochs():
    assert factors([0, 29.999, 30, 59.9, 60, 89.9]) == pytest.approx([1, 1, 0.1, 0.1, 0.01, 0.01])


def test_warmup_rises_linearly_before_the_schedule():
    assert factors([0, 1, 2.5, 5], warmup_epochs=5) == pytest.approx([0, 0.2, 0.5, 1])


def test_cosine_falls_from_one_to_zero():
    settings = {"schedule": "cosine", "warmup_epochs": 10}
    expected = [1, 0.5 * (1 + math.cos(math.pi / 4)), 0.5, 0, 0]
    assert factors([10, 30, 50, 90, 91], **settings) == pytest.approx(expected, abs=1e-12)


def test_one_cycle_is_a_triangle():
    settings = {"schedule": "one-cycle", "warmup_epochs": 2, "epochs": 18}
    assert factors([0, 1, 2, 10, 18, 19], **settings) == pytest.approx([0, 0.5, 1, 0.5, 0, 0])


def test_a_constant_rate_stays_after_the_warmup():
    settings = {"schedule": "constant", "warmup_epochs": 2, "epochs": math.inf}
    assert factors([1, 2, 1000], **settings) == [0.5, 1, 1]


@pytest.mark.parametrize("schedule", ["step", "cosine", "one-cycle"])
def test_no_schedule_falls_below_its_floor(schedule):
    after_warmup = factors([5, 30, 60, 89, 90, 91], schedule=schedule, floor=0.05, warmup_epochs=5)
    assert after_warmup == sorted(after_warmup, reverse=True)
    assert after_warmup[0] == 1
    assert after_warmup[-1] == pytest.approx(0.05)


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
