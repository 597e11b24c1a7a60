"""Measures what does not depend on images: a network's size, its multiply-adds and its speed."""

from __future__ import annotations

import time
from collections.abc import Mapping
from functools import partial
from statistics import median
from typing import Any

import torch
from rich.console import Console
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from bagnet.bench.lib.rounds import step_seconds
from bagnet.model.receptive_field import receptive_field
from bagnet.model.registry import normalize
from datamodules.common.progress import progress

SECONDS = 3.0
"""Least time to measure each network."""

FEWEST_ROUNDS = 3


def facts(
    models: Mapping[str, nn.Module], image_size: int, batch_size: int, device: torch.device
) -> dict[str, dict[str, Any]]:
    """Measure networks that are on the same device, all in one run.

    Returns:
        For each network: parameters; multiply_adds for one image, in 10^9; receptive_field, the
        side of the square that an entry of the last map sees, in pixels, which can be larger than
        the image; images_per_second, the speed of inference; device, where that was measured.
    """
    speeds = images_per_second(models, image_size, batch_size, device)
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else "CPU"
    return {
        label: {
            "parameters": sum(weights.numel() for weights in model.parameters()),
            "multiply_adds": multiply_adds(model, image_size, device) / 1e9,
            "receptive_field": receptive_field(model)[0],
            "images_per_second": speeds[label],
            "device": name,
        }
        for label, model in models.items()
    }


def multiply_adds(model: nn.Module, image_size: int, device: torch.device) -> int:
    """Count the multiply-adds of convolutions and linear layers for one image."""
    image = normalize(torch.zeros(1, 3, image_size, image_size, dtype=torch.uint8, device=device))
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        model(image)
    operations: int = counter.get_total_flops()
    return operations // 2  # a multiply-add is two


def images_per_second(
    models: Mapping[str, nn.Module], image_size: int, batch_size: int, device: torch.device
) -> dict[str, float]:
    """Measure the speed of inference in float32 without TF32, with the input on the device.

    The networks take turns, a batch each, so that other load on the machine affects all of them.
    The median batch counts; the first round is a warm-up.
    """
    least = (FEWEST_ROUNDS + 1) * len(models)  # batches
    torch.backends.cudnn.allow_tf32 = False
    shape = (batch_size, 3, image_size, image_size)
    images = torch.randint(0, 256, shape, dtype=torch.uint8, device=device)

    def classify(model: nn.Module) -> None:
        model(normalize(images))

    seconds: dict[str, list[float]] = {label: [] for label in models}
    start, budget, batches = time.perf_counter(), SECONDS * len(models), 0
    console = Console(stderr=True)
    with torch.inference_mode(), progress(console, "speed", 100, "percent") as update:
        while batches < least or time.perf_counter() < start + budget:
            for label, model in models.items():
                seconds[label] += step_seconds(partial(classify, model), 1, device)
                batches += 1
                passed = time.perf_counter() - start
                update(100 * min(1.0, batches / least, passed / budget if budget else 1.0))
    return {label: batch_size / median(times[1:]) for label, times in seconds.items()}
