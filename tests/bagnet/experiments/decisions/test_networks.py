"""Facts about networks, against published numbers."""

from __future__ import annotations

import time

import pytest
import torch
from torch import nn

from bagnet.experiments.decisions import networks
from bagnet.experiments.decisions.networks import facts, images_per_second, multiply_adds
from bagnet.model.network import BagNet
from bagnet.model.registry import build_model


@pytest.mark.parametrize(("name", "billions"), [("resnet50", 4.09), ("bagnet33", 16.26)])
def test_multiply_adds_are_the_published_ones(name, billions):
    device = torch.device("meta")
    with device:
        network = build_model(name)
    assert multiply_adds(network, 224, device) / 1e9 == pytest.approx(billions, abs=0.005)


def test_multiply_adds_are_those_of_arithmetic():
    layer = nn.Sequential(
        nn.Conv2d(3, 5, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(5, 2)
    )
    assert multiply_adds(layer, 10, torch.device("cpu")) == 3 * 5 * 9 * 64 + 10


def test_speed_is_measured_in_turns_and_is_images_over_seconds(monkeypatch):
    turns: list[float] = []  # the seconds of each batch
    monkeypatch.setattr(time, "perf_counter", lambda: sum(turns))
    networks = {
        name: lambda x, seconds=seconds: turns.append(seconds)
        for name, seconds in (("slow", 0.5), ("fast", 0.125))
    }
    speeds = images_per_second(networks, 8, 4, torch.device("cpu"))
    assert speeds == {"slow": 8, "fast": 32}
    assert turns == [0.5, 0.125] * 10  # at least 3 s for each network


def test_facts_of_a_network(monkeypatch):
    monkeypatch.setattr(networks, "SECONDS", 0.0)
    model = BagNet(9, 3, width=2).eval()
    (fact,) = facts({"a": model}, 40, 2, torch.device("cpu")).values()
    assert fact.pop("images_per_second") > 0
    assert fact == {
        "parameters": sum(weights.numel() for weights in model.parameters()),
        "multiply_adds": multiply_adds(model, 40, torch.device("cpu")) / 1e9,
        "receptive_field": 9,
        "device": "CPU",
    }
