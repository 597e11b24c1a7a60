"""From pixels to logits: the forward pass, its compiler, and its memory format."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Literal

import torch
from torch import Tensor, nn

from bagnet.evidence.maps import require_bagnet
from bagnet.model.registry import normalize

CompileMode = Literal["default", "reduce-overhead", "max-autotune"]
"""Modes of torch.compile. All but the first record CUDA graphs."""


def logits(model: nn.Module, images: Tensor, layout: torch.memory_format) -> Tensor:
    """Compute the logits (B, classes) of images (B, 3, H, W) in `layout`.

    uint8 images are normalised; images of floats are taken to be normalised already.
    """
    result: Tensor = model(_prepared(model, images, layout))
    return result


def evidence(model: nn.Module, images: Tensor, layout: torch.memory_format) -> Tensor:
    """Compute a BagNet's evidence map (B, classes, H', W'), whose mean is what `logits` gives."""
    return require_bagnet(model).logits_map(_prepared(model, images, layout))


def _prepared(model: nn.Module, images: Tensor, layout: torch.memory_format) -> Tensor:
    dtype = next(model.parameters()).dtype  # not float32 with a precision such as bf16-true
    x = images.to(dtype) if images.is_floating_point() else normalize(images, dtype)
    return x.contiguous(memory_format=layout)


Function = Callable[[nn.Module, Tensor, torch.memory_format], Tensor]
"""`logits` or `evidence`."""


@functools.cache
def compiled(mode: str, function: Function = logits) -> Function:
    """Compile `logits` or `evidence` in a mode of torch.compile.

    No module keeps the result, so modules pickle.

    It includes the normalisation, which in eager mode writes the images five times in float32
    before the first convolution reads them. Each batch size gets a graph of its own: by default,
    torch would compile the second size it sees for any size, which trains 24% slower (docs/gpu.md).
    """
    return torch.compile(function, mode=mode, dynamic=False)


def memory_format(device: torch.device, width: int) -> torch.memory_format:
    """The fastest safe memory format: channels last, except for very narrow networks on a CPU.

    For those, oneDNN's backward pass corrupts memory in torch 2.15: trainings of widths 4, 8 and 12
    crashed sooner or later. Multiples of 16, which fill its vectors, never did.
    """
    is_safe = device.type != "cpu" or width % 16 == 0
    return torch.channels_last if is_safe else torch.contiguous_format


def check_compile(
    compile: bool | CompileMode, sync_batchnorm: bool, accumulated: int, recompute: bool
) -> None:
    """Refuse settings that do not work with a compiled network.

    Args:
        compile: Whether to compile, or the mode.
        sync_batchnorm: Whether the ranks share the statistics of each BatchNorm layer.
        accumulated: Batches per optimizer step.
        recompute: Whether blocks are computed again in the backward pass.

    Raises:
        ValueError: The settings cannot be combined.
    """
    if compile and sync_batchnorm:
        raise ValueError(
            "--compile does not work with --trainer.sync_batchnorm: each of its layers waits for "
            "the GPU, and would split the compiled network; leave one of them out"
        )
    if compile and recompute:
        raise ValueError(
            "--compile does not work with --model.activation_checkpointing: the compiler cannot "
            "see that BatchNorm's statistics are updated once; leave one of them out"
        )
    if compile not in (False, True, "default") and accumulated > 1:
        raise ValueError(
            f"--compile {compile} does not work with --trainer.accumulate_grad_batches "
            f"{accumulated}: CUDA graphs overwrite the gradients of the batch before; "
            "use --compile without a mode"
        )
