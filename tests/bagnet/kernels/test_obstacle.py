"""Where the fused kernels cannot run, the reason is said."""

from __future__ import annotations

import importlib.util

import pytest
import torch
from torch import nn

from bagnet.kernels import fuse, obstacle
from bagnet.model.network import BagNet

GPU, CPU = torch.device("cuda", 1), torch.device("cpu")


@pytest.fixture
def model() -> BagNet:
    return BagNet(9, num_classes=5, width=4)


def test_without_triton(monkeypatch, model):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    assert obstacle(model, GPU) == "triton is not installed (it comes with torch for CUDA on Linux)"


def test_another_network():
    assert obstacle(nn.Linear(2, 2), GPU) == "Linear is no BagNet"


@pytest.mark.skipif(importlib.util.find_spec("triton") is None, reason="no triton here")
def test_another_device_and_an_old_one(monkeypatch, model):
    assert obstacle(model, CPU) == "they are for GPUs, and the device is cpu"
    monkeypatch.setattr("torch.cuda.get_device_capability", lambda device: (7, 5))
    assert obstacle(model, GPU) == "they need compute capability 8.0, and cuda:1 has 7.5"
    monkeypatch.setattr("torch.cuda.get_device_capability", lambda device: (8, 0))
    assert obstacle(model, GPU) is None
    with pytest.raises(ValueError, match="no fused kernels here: they are for GPUs.*use the plain"):
        fuse(model, CPU)
    assert model.fused is None
