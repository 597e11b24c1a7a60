"""Activation checkpointing: less memory for a training, at the price of a second forward pass."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext

from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

NORMS = nn.BatchNorm2d | nn.SyncBatchNorm


def recomputed(block: nn.Module, x: Tensor) -> Tensor:
    """Apply a block, of which only the input is kept for the backward pass.

    The backward pass applies it once more, with the same result. BatchNorm's running statistics
    are updated once, as without it.
    """

    def contexts() -> tuple[AbstractContextManager[None], AbstractContextManager[None]]:
        return nullcontext(), _unchanged_statistics(block)

    result: Tensor = checkpoint(
        block, x, use_reentrant=False, preserve_rng_state=False, context_fn=contexts
    )
    return result


@contextmanager
def _unchanged_statistics(block: nn.Module) -> Iterator[None]:
    layers = [layer for layer in block.modules() if isinstance(layer, NORMS)]
    momenta = [layer.momentum for layer in layers]
    for layer in layers:
        layer.momentum = 0.0
    try:
        yield
    finally:
        for layer, momentum in zip(layers, momenta, strict=True):
            layer.momentum = momentum
            if layer.num_batches_tracked is not None:
                layer.num_batches_tracked -= 1
