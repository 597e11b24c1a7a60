"""Measures the speed of training steps, and compares it with the device's limits.

The variants take turns in one process, after a warm-up in which the logits of the same network must
agree. A step is that of training: normalisation, forward, loss, backward, and SGD with momentum, on
random uint8 images that are already on the device.

* fp32, bf16: the plain network in true float32, or mixed with bfloat16.
* channels-last: bf16 in channels-last memory; ratios refer to it.
* fused-sgd: channels-last, with the optimizer in one kernel.
* cudnn-benchmark: fused-sgd, with cuDNN's fastest algorithm for each convolution, as in train.py.
* compiled: fused-sgd, compiled with torch.compile.
* resnet50, resnet50-compiled: channels-last and compiled, for torchvision's ResNet-50.

Only on request (--variants):

* ddp: fused-sgd, wrapped in DistributedDataParallel, in a group of this process alone.
* compiled-benchmark: compiled, with cuDNN's fastest algorithms, as in train.py --compile.
* compiled-symbolic: compiled for any batch size.
* graph, compiled-graph: fused-sgd and compiled as CUDA graphs, which spare the host (compiled in
  the mode reduce-overhead); compiled-tuned: compiled in the mode max-autotune.

MFU is the share that the network's arithmetic takes of the bfloat16 peak measured in this run, and
"sheet" of the one in the GPU's data sheet. GB/image is what the device could copy in the time of
one image. Two floors are below it: what activations have to move if all else is fused into the
convolutions, and what they move if nothing is fused (plain). Spread is the distance between the
fastest and the slowest round.
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
from bagnet.bench.lib.steps import ON_REQUEST, REFERENCE, VARIANTS, Step, leave_group
from bagnet.bench.options import StepOptions
from bagnet.training.monitoring.utilization import data_sheet

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
    leave_group()
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
    peaks, sheet = measure_peaks(setting.device), data_sheet(setting.device)
    medians = {name: statistics.median(chain(*rounds)) for name, rounds in seconds.items()}
    reference = medians.get(REFERENCE, next(iter(medians.values())))
    rows, floors, counts = [], {}, {}
    for name, median in medians.items():
        network = network_of(name, setting.model)
        needs = counts[name] = count(network, setting.width, setting.image_size)
        rate = setting.batch_size / median
        flops = rate * needs.training_flops
        of_rounds = [statistics.median(steps) for steps in seconds[name]]
        rows.append(
            [
                name,
                short(rate),
                f"{(max(of_rounds) - min(of_rounds)) / median:.1%}",
                f"{reference / median:.2f}",
                f"{flops / peaks.flops:.1%}",
                f"{flops / sheet:.1%}" if sheet else "-",
                f"{peaks.bandwidth / rate / 1e9:.2f}",
                f"{gib[name]:.1f}" if name in gib else "-",
            ]
        )
        floors[network] = [
            f"{needs.training_flops / 1e9:.1f}",
            short(peaks.flops / needs.training_flops),
            f"{needs.training_bytes / 1e9:.2f}",
            short(peaks.bandwidth / needs.training_bytes),
            f"{needs.plain_bytes / 1e9:.2f}",
            short(peaks.bandwidth / needs.plain_bytes),
        ]
    show(["variant", "images/s", "spread", "ratio", "MFU", "sheet", "GB/image", "GiB"], rows)
    show(
        ["floors", "GFLOP/image", "images/s", "GB/image", "images/s", "GB plain", "images/s"],
        [[name, *figures] for name, figures in floors.items()],
    )
    stated = f" (data sheet: {sheet / 1e12:.4g})" if sheet else ""
    Console(highlight=False).print(
        f"Measured in this run: {peaks.flops / 1e12:.3g} TFLOP/s in bfloat16{stated}, "
        f"{peaks.bandwidth / 1e9:.4g} GB/s of memory."
    )
    return {
        "peaks": {**vars(peaks), "data_sheet_flops": sheet},
        "counts": {name: vars(each) for name, each in counts.items()},
    }
