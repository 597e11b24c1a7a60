"""Activation checkpointing keeps less, and changes nothing else."""

from __future__ import annotations

import torch
from torch.nn import functional as F

from bagnet.model.network import BagNet


def one_step(recompute: bool) -> tuple[int, dict[str, torch.Tensor]]:
    """Bytes kept for the backward pass, and the state and gradients after it."""
    torch.manual_seed(0)
    model = BagNet(33, num_classes=5, width=16)
    model.recompute = recompute
    kept = {}

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        kept[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        loss = F.cross_entropy(model(torch.randn(4, 3, 65, 65)), torch.arange(4))
    before = sum(kept.values())
    loss.backward()
    gradients = {f"{name}.grad": value.grad for name, value in model.named_parameters()}
    return before, {**model.state_dict(), **gradients}


def test_gradients_and_statistics_are_the_same_and_less_is_kept():
    everything, plain = one_step(recompute=False)
    less, recomputed = one_step(recompute=True)
    assert plain.keys() == recomputed.keys()
    for name, value in plain.items():
        assert torch.equal(recomputed[name], value), name
    assert plain["layer1.0.bn1.num_batches_tracked"] == 1
    weights = sum(value.nbytes for name, value in plain.items() if name.endswith("weight"))
    assert less - weights < 0.5 * (everything - weights)
