"""Where the time of a training step goes, kernel by kernel."""

from __future__ import annotations

import argparse

import torch
from rich.console import Console
from torch.autograd import DeviceType
from torch.profiler import ProfilerActivity, profile

from bagnet.bench.lib.report import short, show, write
from bagnet.bench.lib.rounds import step_seconds
from bagnet.bench.lib.steps import VARIANTS, Setting, Step

WARM_UP = 3  # steps
WIDEST = 44  # characters of a kernel's name in the table; the JSON has all of it


def measure(options: argparse.Namespace, device: torch.device, most: int = 15) -> None:
    """Print the kernels that take most of each variant's steps, and write all of them to ``options.out``.

    On CUDA these are what runs on the GPU, on a CPU the operators of torch.

    Args:
        options: The settings of `bagnet.bench.train`.
        device: To run on.
        most: Rows of a table.
    """
    setting = Setting.synthetic(
        options.model, options.width, options.batch_size, options.image_size, options.device
    )
    figures = {}
    for name in options.variants:
        step = VARIANTS[name](setting)
        step_seconds(step, WARM_UP, device)
        kernels = figures[name] = profiled(step, options.steps, device)
        together = sum(ms for ms, _ in kernels.values())
        Console().print(f"[bold]{name}[/bold]: {short(together)} ms a step")
        largest = sorted(kernels.items(), key=lambda item: -item[1][0])[:most]
        rows = [
            [kernel[:WIDEST], f"{calls:g}", short(ms), f"{ms / together:.1%}"]
            for kernel, (ms, calls) in largest
        ]
        others = together - sum(ms for _, (ms, _) in largest)
        if others > 0:
            rows.append(["others", "", short(others), f"{others / together:.1%}"])
        show(["kernel", "calls", "ms/step", "share"], rows)
        del step
    write(options, {"ms_and_calls_per_step": figures})


def profiled(step: Step, steps: int, device: torch.device) -> dict[str, tuple[float, float]]:
    """Milliseconds and calls a step, by kernel."""
    cuda = device.type == "cuda"
    activities = [ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if cuda else [])]
    with profile(activities=activities) as profiler:
        step_seconds(step, steps, device)
    wanted = DeviceType.CUDA if cuda else DeviceType.CPU
    kernels = {}
    for event in profiler.key_averages():
        us = event.self_device_time_total if cuda else event.self_cpu_time_total
        if event.device_type == wanted and us > 0:
            kernels[event.key] = us / 1e3 / steps, event.count / steps
    return kernels
