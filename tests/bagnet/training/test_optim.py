from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from bagnet.model.registry import build_model
from bagnet.training.optim import learning_rate_factor, parameter_groups, scaled_learning_rate


def test_learning_rate_scales_linearly_with_the_global_batch():
    assert scaled_learning_rate(0.01, 256) == 0.01
    assert scaled_learning_rate(0.01, 1024) == 0.04


def factors(epochs: list[float], **settings: object) -> list[float]:
    defaults = {"schedule": "step", "epochs": 90, "warmup_epochs": 0, "decay_every": 30}
    return [learning_rate_factor(epoch, **{**defaults, **settings}) for epoch in epochs]


def test_the_papers_schedule_divides_by_ten_every_30_epochs():
    assert factors([0, 29.999, 30, 59.9, 60, 89.9]) == pytest.approx([1, 1, 0.1, 0.1, 0.01, 0.01])


def test_warmup_rises_linearly_before_the_schedule():
    assert factors([0, 1, 2.5, 5], warmup_epochs=5) == pytest.approx([0, 0.2, 0.5, 1])


def test_cosine_falls_from_one_to_zero():
    settings = {"schedule": "cosine", "warmup_epochs": 10}
    expected = [1, 0.5 * (1 + math.cos(math.pi / 4)), 0.5, 0, 0]
    assert factors([10, 30, 50, 90, 91], **settings) == pytest.approx(expected, abs=1e-12)


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
