"""Measures the speed of training steps, and compares it with the device's limits.

The variants take turns in one process, after a warm-up in which the logits of the same network must
agree. A step is that of training: normalisation, forward, loss, backward, and SGD with momentum, on
random uint8 images that are already on the device.

* fp32, bf16: the plain network in true float32, or mixed with bfloat16.
* channels-last: bf16 in channels-last memory; ratios refer to it.
* fused-sgd: channels-last, with the optimizer in one kernel.
* compiled: fused-sgd, compiled with torch.compile.
* resnet50, resnet50-compiled: channels-last and compiled, for torchvision's ResNet-50.

Only on request (--variants): graph and compiled-graph are fused-sgd and compiled as CUDA graphs,
which spare the host; compiled-tuned is compiled in the mode max-autotune-no-cudagraphs.

MFU is the share of the device's bfloat16 peak, measured in this run, that the network's arithmetic
takes. GB/image is what the device could copy in the time of one image; the floor below it is what
it has to move, so the difference shows how often activations are moved again.
"""

from __future__ import annotations

import statistics
from collections.abc import Mapping
from itertools import chain

import torch
from rich.console import Console
from torch import Tensor

from bagnet.bench.lib.floors import count, measure_peaks
from bagnet.bench.lib.report import short, show, write
from bagnet.bench.lib.rounds import step_seconds, take_turns
from bagnet.bench.lib.setting import GRAPHS, Setting, check, network_of, prepared
from bagnet.bench.lib.steps import ON_REQUEST, REFERENCE, VARIANTS, Step
from bagnet.bench.options import StepOptions

WARM_UP = 3  # steps, after the first one


def run(options: StepOptions) -> None:
    """Run the benchmark and print its tables.

    Raises:
        ValueError: No variant fits the memory, or two compute different logits.
    """
    options = prepared(options, VARIANTS, ON_REQUEST)
    setting = Setting.synthetic(options)
    steps: dict[str, Step] = {}
    gib: dict[str, float] = {}
    expected: dict[str, Tensor] = {}
    for name in options.variants:
        before = _allocated(setting.device)
        try:
            step = VARIANTS[name](setting)
            step()
            logits = step.logits.clone()  # the next replay of a graph overwrites them
            step_seconds(step, WARM_UP, setting.device)
        except torch.cuda.OutOfMemoryError:
            Console().print(f"{name} is left out: a batch of {setting.batch_size} does not fit.")
            continue
        check(name, logits, expected.setdefault(network_of(name, setting.model), logits))
        steps[name] = step
        # Measured after compiling, which takes memory too. A graph's pool cannot be measured so.
        if setting.device.type == "cuda" and name not in GRAPHS:
            gib[name] = (_peak(step, setting.device) - before) / 2**30
    if not steps:
        raise ValueError(
            f"--batch_size {setting.batch_size}: no variant fits; choose a smaller one"
        )
    seconds = take_turns(
        list(steps),
        options.rounds,
        lambda name: step_seconds(steps[name], setting.steps, setting.device),
    )
    figures = _report(setting, seconds, gib)
    write(options, {"seconds_per_step": seconds, "peak_gib": gib, **figures})


def _allocated(device: torch.device) -> int:
    """Bytes of tensors on a GPU; 0 for a CPU."""
    return torch.cuda.memory_allocated(device) if device.type == "cuda" else 0


def _peak(step: Step, device: torch.device) -> int:
    """The largest number of bytes of tensors on a GPU during a step."""
    torch.cuda.reset_peak_memory_stats(device)
    step()
    return torch.cuda.max_memory_allocated(device)


def _report(
    setting: Setting, seconds: Mapping[str, list[list[float]]], gib: Mapping[str, float]
) -> dict[str, object]:
    """Print the tables; returns the device's peaks and the networks' counts."""
    peaks = measure_peaks(setting.device)
    medians = {name: statistics.median(chain(*rounds)) for name, rounds in seconds.items()}
    reference = medians.get(REFERENCE, next(iter(medians.values())))
    rows, floors, counts = [], {}, {}
    for name, median in medians.items():
        network = network_of(name, setting.model)
        needs = counts[name] = count(network, setting.width, setting.image_size)
        rate = setting.batch_size / median
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
                f"{gib[name]:.1f}" if name in gib else "-",
            ]
        )
        floors[network] = [
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
        f"Measured in this run: {peaks.flops / 1e12:.3g} TFLOP/s in bfloat16, "
        f"{peaks.bandwidth / 1e9:.3g} GB/s of memory."
    )
    return {"peaks": vars(peaks), "counts": {name: vars(each) for name, each in counts.items()}}
