"""How fast training steps are, and how near to the device's limits.

All variants take turns in one process, after a warm-up in which the logits of one network's must agree. A step is that of
`bagnet.training.classifier` on synthetic uint8 images on the device: normalisation, forward, loss, backward, SGD with momentum.

* fp32, bf16, channels-last: the plain network: true float32, mixed with bfloat16, and that with channels last.
* fused-sgd: channels-last, with the optimizer in one kernel.
* checkpointed: channels-last, with the activations of each block computed again for its backward pass.
* compiled: fused-sgd, compiled from the pixels on.
* resnet50, resnet50-compiled: channels-last and compiled of torchvision's network.
* On request (`--variants`): graph and compiled-graph are fused-sgd and compiled as CUDA graphs, that is
  without what the host costs, but each keeps the memory of its step; compiled-tuned is compiled in torch.compile's mode
  max-autotune-no-cudagraphs.

Ratios are to channels-last. MFU is the share of the device's own bfloat16 peak, measured in this run, that goes into
operations the network needs. GB/image is what the device could have moved in the time of an image, the floor beside it what
it has to: the nearer, the fewer passes over the activations there are.
"""

from __future__ import annotations

import argparse
import statistics
from collections.abc import Sequence
from itertools import chain

import torch
from rich.console import Console
from torch import Tensor

from bagnet.bench.lib import kernels, memory
from bagnet.bench.lib.floors import Peaks, count, measure_peaks
from bagnet.bench.lib.report import short, show, write
from bagnet.bench.lib.rounds import prepare_device, step_seconds, take_turns
from bagnet.bench.lib.steps import (
    ON_REQUEST,
    REFERENCE,
    VARIANTS,
    Setting,
    Step,
    check,
    choose,
    network_of,
    network_parser,
)

WARM_UP = 3  # steps, after the first one
ON_CUDA = {"batch_size": 128, "image_size": 224, "steps": 50}
ON_CPU = {"batch_size": 16, "image_size": 64, "steps": 5}


def main(arguments: Sequence[str]) -> int:
    """Run the benchmark and print its table; returns the exit code."""
    parser = network_parser("train", __doc__, VARIANTS, ON_CUDA, ON_CPU, rounds=3)
    add = parser.add_argument
    add("--memory", action="store_true", help="CUDA: find the largest batch that fits instead")
    add("--kernels", action="store_true", help="show where a step's time goes, kernel by kernel")
    options = parser.parse_args(arguments)
    device = prepare_device(options, ON_CUDA, ON_CPU)
    options.variants = choose(VARIANTS, options, device, ON_REQUEST)
    if options.memory:
        memory.measure(options, device)
    elif options.kernels:
        kernels.measure(options, device)
    else:
        _measure(options, device)
    return 0


def _measure(options: argparse.Namespace, device: torch.device) -> None:
    setting = Setting.synthetic(
        options.model, options.width, options.batch_size, options.image_size, options.device
    )
    steps: dict[str, Step] = {}
    gib: dict[str, float] = {}
    logits: dict[str, Tensor] = {}
    for name in options.variants:
        before = memory.allocated(device)
        try:
            step = VARIANTS[name](setting)
            step()
        except torch.cuda.OutOfMemoryError:
            Console().print(f"{name} is left out: a batch of {options.batch_size} does not fit.")
            continue
        steps[name] = step
        check(name, step.logits, logits.setdefault(network_of(name, options.model), step.logits))
        step_seconds(step, WARM_UP, device)
        if device.type == "cuda":  # only now: compiling takes memory of its own
            gib[name] = (memory.peak(step, device) - before) / 2**30
    if not steps:
        raise ValueError(
            f"--batch-size {options.batch_size}: no variant fits; choose a smaller one"
        )
    peaks = measure_peaks(device)
    seconds = take_turns(
        list(steps),
        options.rounds,
        lambda name: step_seconds(steps[name], options.steps, device),
    )
    _tell(options, seconds, peaks, gib)


def _tell(
    options: argparse.Namespace,
    seconds: dict[str, list[list[float]]],
    peaks: Peaks,
    gib: dict[str, float],
) -> None:
    """Print the tables and write the figures."""
    medians = {name: statistics.median(chain(*rounds)) for name, rounds in seconds.items()}
    reference = medians.get(REFERENCE, next(iter(medians.values())))
    counts = {
        name: count(network_of(name, options.model), options.width, options.image_size)
        for name in medians
    }
    rows, floors = [], {}
    for name, median in medians.items():
        rate, needs = options.batch_size / median, counts[name]
        of_rounds = [1e3 * statistics.median(steps) for steps in seconds[name]]
        rows.append(
            [
                name,
                short(rate),
                short(1e3 * median),
                f"{short(min(of_rounds))}-{short(max(of_rounds))}",
                f"{reference / median:.2f}",
                f"{rate * needs.training_flops / peaks.flops:.1%}",
                f"{peaks.bandwidth / rate / 1e9:.2f}",
                f"{gib[name]:.1f}" if gib else "-",
            ]
        )
        floors[network_of(name, options.model)] = [
            f"{needs.training_flops / 1e9:.1f}",
            f"{needs.training_bytes / 1e9:.2f}",
            short(peaks.flops / needs.training_flops),
            short(peaks.bandwidth / needs.training_bytes),
        ]
    show(["variant", "images/s", "ms/step", "rounds", "ratio", "MFU", "GB/image", "GiB"], rows)
    show(
        ["floors", "GFLOP/image", "GB/image", "images/s by arithmetic", "by memory"],
        [[name, *figures] for name, figures in floors.items()],
    )
    Console().print(
        f"The device: {peaks.flops / 1e12:.3g} TFLOP/s in bfloat16, "
        f"{peaks.bandwidth / 1e9:.3g} GB/s of memory, both measured now."
    )
    figures = {"seconds_per_step": seconds, "peak_gib": gib}
    write(
        options,
        {**figures, "peaks": vars(peaks), "counts": {n: vars(c) for n, c in counts.items()}},
    )
