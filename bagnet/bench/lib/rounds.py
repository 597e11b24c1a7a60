"""Measurements that take turns, and a clock that knows when the device is done."""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import TypeVar

import torch
from rich.console import Console
from rich.progress import track
from torch import Tensor

Result = TypeVar("Result")


def take_turns(
    names: Sequence[str], rounds: int, measure: Callable[[str], Result]
) -> dict[str, list[Result]]:
    """Measure each of them once a round, so that whatever else the machine does hits all of them alike.

    Returns:
        For each name, what ``measure`` said, round by round.
    """
    results: dict[str, list[Result]] = {name: [] for name in names}
    turns = [name for _ in range(rounds) for name in names]
    for name in track(turns, "measuring", console=Console(stderr=True), transient=True):
        results[name].append(measure(name))
    return results


def step_seconds(step: Callable[[], object], steps: int, device: torch.device) -> list[float]:
    """Seconds of each of ``steps`` calls in a row.

    On CUDA they are the GPU's own, from events between the calls: the host runs ahead as it does in a training, and is part
    of the figure only where the GPU waits for it.
    """
    if device.type != "cuda":
        moments = [time.perf_counter()]
        for _ in range(steps):
            step()
            moments.append(time.perf_counter())
        return [after - before for before, after in pairwise(moments)]
    events = [torch.cuda.Event(enable_timing=True) for _ in range(steps + 1)]
    torch.cuda.synchronize(device)
    events[0].record()
    for event in events[1:]:
        step()
        event.record()
    torch.cuda.synchronize(device)
    return [before.elapsed_time(after) / 1e3 for before, after in pairwise(events)]


def recorded(call: Callable[[], Tensor]) -> Callable[[], Tensor]:
    """``call`` as a CUDA graph: its kernels are recorded once, and then started together, with the same memory each time.

    Args:
        call: Touches the same tensors in each call. It is called three times first, on a stream of its own as CUDA asks for,
            to make what is made once.
    """
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        for _ in range(3):
            call()
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        result = call()

    def replay() -> Tensor:
        graph.replay()
        return result

    return replay


def prepare_device(
    options: argparse.Namespace, on_cuda: dict[str, int], on_cpu: dict[str, int]
) -> torch.device:
    """Fill in the sizes that were not given, choose true float32, and say so if the figures are a CPU's.

    Args:
        options: The settings, among them ``device`` and ``rounds``.
        on_cuda: What is missing of the settings, on a GPU.
        on_cpu: The same, on a CPU.

    Raises:
        ValueError: There is no such device, or a size below one.
    """
    if options.device.partition(":")[0] not in ("cpu", "cuda"):
        raise ValueError(f"--device {options.device}: benchmarks run on cpu or cuda")
    device = torch.device(options.device)
    if device.type == "cuda" and not torch.cuda.is_available():
        raise ValueError(f"--device {options.device}: there is no GPU here; choose --device cpu")
    for name, size in (on_cuda if device.type == "cuda" else on_cpu).items():
        if getattr(options, name) is None:
            setattr(options, name, size)
    for name in (*on_cuda, "rounds"):
        if getattr(options, name) < 1:
            flag = name.replace("_", "-")
            raise ValueError(f"--{flag} {getattr(options, name)}: it must be at least 1")
    if device.type == "cpu":
        Console().print("[bold]Figures of a CPU: they tell nothing about GPUs.[/bold]")
    torch.backends.cudnn.allow_tf32 = False
    return device
