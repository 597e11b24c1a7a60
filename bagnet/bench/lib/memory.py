"""The largest training batch that fits on a GPU, with and without activation checkpointing, and what that costs."""

from __future__ import annotations

import argparse
import gc
import statistics
from collections.abc import Callable
from functools import partial

import torch

from bagnet.bench.lib.report import short, show, write
from bagnet.bench.lib.rounds import step_seconds
from bagnet.bench.lib.steps import REFERENCE, VARIANTS, Setting, Step

WAYS = (REFERENCE, "checkpointed")
WARM_UP = 2  # steps; the optimizer's state is there after the first


def allocated(device: torch.device) -> int:
    """Bytes of tensors on a CUDA device; none on a CPU."""
    return torch.cuda.memory_allocated(device) if device.type == "cuda" else 0


def peak(step: Step, device: torch.device) -> int:
    """The most bytes of tensors on a CUDA device during a step."""
    torch.cuda.reset_peak_memory_stats(device)
    step()
    return torch.cuda.max_memory_allocated(device)


def largest(fits: Callable[[int], bool], precision: int = 8) -> int:
    """The largest number that fits, by doubling and then bisection; 0 if not even ``precision`` does.

    Args:
        fits: Whether a number does; where one does, so must all below it.
        precision: How near to the limit to go; the answer is a multiple of it.
    """
    low, high = 0, 1
    while fits(high * precision):
        low, high = high, 2 * high
    while high - low > 1:
        middle = (low + high) // 2
        if fits(middle * precision):
            low = middle
        else:
            high = middle
    return low * precision


def measure(options: argparse.Namespace, device: torch.device) -> None:
    """Print the largest batches, and the images a second at ``options.batch_size`` and at the largest.

    Raises:
        ValueError: The device is no GPU.
    """
    if device.type != "cuda":
        raise ValueError("--memory fills the memory of a GPU, and there is none; leave it out")
    total = torch.cuda.get_device_properties(device).total_memory / 2**30
    rows, figures = [], {}
    for way in (name for name in WAYS if name in options.variants):
        batch = largest(partial(_fits, options, device, way))
        at_most = _rate(way, batch, options.steps, options, device) if batch else None
        at_same = _rate(way, options.batch_size, options.steps, options, device)
        rates = [None if rate is None else short(rate) for rate in (at_same, at_most)]
        rows.append([way, str(batch), *(rate or "does not fit" for rate in rates)])
        figures[way] = {"largest_batch": batch, "rate": at_same, "rate_at_largest": at_most}
    columns = ["variant", "largest batch", f"images/s at {options.batch_size}", "at the largest"]
    show(columns, rows)
    write(options, {"total_gib": total, "memory": figures})


def _fits(options: argparse.Namespace, device: torch.device, way: str, batch: int) -> bool:
    return _rate(way, batch, 1, options, device) is not None


def _rate(
    way: str, batch: int, steps: int, options: argparse.Namespace, device: torch.device
) -> float | None:
    """Images a second with this batch, or None if it does not fit."""
    gc.collect()
    torch.cuda.empty_cache()  # what the last one left, to have all of the memory
    try:
        setting = Setting.synthetic(
            options.model, options.width, batch, options.image_size, options.device
        )
        step = VARIANTS[way](setting)
        step_seconds(step, WARM_UP, device)
        return batch / statistics.median(step_seconds(step, steps, device))
    except torch.cuda.OutOfMemoryError:
        return None
