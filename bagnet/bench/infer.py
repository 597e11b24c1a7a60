"""How many images a second are classified, beside ResNet-50.

All variants take turns in one process, after a warm-up in which the logits of one network's must agree. The images are uint8
on the device; normalising them is part of the time. Weights are fresh.

* fp32, bf16: the plain network in true float32, and in bfloat16.
* channels-last: bf16 with channels last; ratios are to it.
* folded: channels-last, each BatchNorm folded into its convolution (and a BagNet's first two into one).
* compiled: folded, with `module.compile()`.
* graph: folded, replayed as a CUDA graph (on GPUs only).
* map: folded, with the evidence of each patch for all classes, of which the logits are the mean (`bagnet.evidence`).
* resnet50-fp32, resnet50-folded, resnet50-compiled: torchvision's network in these ways.

Then the evidence around every pixel for one class (`bagnet.dense_evidence`, float32), in maps a second, and how many
times slower than ResNet-50 the network is, beside the paper's 155 against 570 images/s (Brendel & Bethge 2019).
"""

from __future__ import annotations

import argparse
import statistics
from collections.abc import Callable, Sequence
from functools import partial

import torch
from rich.console import Console
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from bagnet.bench.lib.floors import count
from bagnet.bench.lib.report import report, short
from bagnet.bench.lib.rounds import prepare_device, recorded, step_seconds, take_turns
from bagnet.bench.lib.steps import Setting, check, choose, network_of, network_parser
from bagnet.evidence.dense import dense_evidence
from bagnet.evidence.maps import evidence_map
from bagnet.model import folding
from bagnet.model.network import BagNet
from bagnet.model.registry import build_model, normalize
from bagnet.training.classifier import memory_format

Logits = Callable[[], Tensor]
REFERENCE = "channels-last"
PAPER = 155 / 570
WARM_UP = 3  # calls
ON_CUDA = {"batch_size": 256, "image_size": 224, "steps": 50}
ON_CPU = {"batch_size": 16, "image_size": 64, "steps": 5}


@torch.no_grad()
def build(
    setting: Setting,
    model: str | None = None,
    *,
    dtype: torch.dtype = torch.bfloat16,
    channels_last: bool = True,
    folded: bool = False,
    compiled: bool = False,
    graph: bool = False,
    forward: Callable[[nn.Module, Tensor], Tensor] | None = None,
) -> Logits:
    """What gives the logits (B, classes) of the setting's images, in evaluation mode.

    Args:
        setting: Images and network.
        model: Another network than the setting's.
        dtype: Of weights and activations.
        channels_last: Whether to lay weights and images out so.
        folded: Whether to fold each BatchNorm into its convolution.
        compiled: Whether to compile the network.
        graph: Whether to record the kernels once and replay them; CUDA only.
        forward: Gets the logits out of the network in another way than calling it.
    """
    device = setting.images.device
    layout = memory_format(device, setting.width) if channels_last else torch.contiguous_format
    network = _network(model or setting.model, setting).to(device).eval()
    if folded:
        network = folding.folded(network) if isinstance(network, BagNet) else fold(network)
    network = network.to(dtype).to(memory_format=layout)
    if compiled:
        network.compile()

    run: Callable[[Tensor], Tensor] = network if forward is None else partial(forward, network)

    def images() -> Tensor:
        return normalize(setting.images, dtype).contiguous(memory_format=layout)

    @torch.no_grad()
    def logits() -> Tensor:
        return run(images())

    return recorded(logits) if graph else logits


@torch.no_grad()
def _network(name: str, setting: Setting) -> nn.Module:
    """A network with fresh weights whose normalisation has seen the images, so that signals keep their size."""
    torch.manual_seed(0)
    network = build_model(name, width=setting.width).to(setting.images.device)
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.momentum = None  # the mean over all it has seen: here one batch
    network(normalize(setting.images))
    return network


def fold(network: nn.Module) -> nn.Module:
    """Fold each BatchNorm of a ResNet into the convolution before it; the network, in evaluation mode, is changed and returned.

    In torchvision's ResNets the modules stand in the order in which they are applied, and each normalisation behind its
    convolution. `bagnet.model.folding` does it for BagNets.
    """
    for parent in network.modules():
        before = ""
        for name, child in list(parent.named_children()):
            if isinstance(child, nn.BatchNorm2d):
                convolution = getattr(parent, before)
                setattr(parent, before, fuse_conv_bn_eval(convolution, child))
                setattr(parent, name, nn.Identity())
            before = name
    return network


def _mean_of_map(network: nn.Module, images: Tensor) -> Tensor:
    return evidence_map(network, images).mean((2, 3))


plain = partial(build, dtype=torch.float32, channels_last=False)
VARIANTS: dict[str, Callable[[Setting], Logits]] = {
    "fp32": plain,
    "bf16": partial(build, channels_last=False),
    REFERENCE: build,
    "folded": partial(build, folded=True),
    "compiled": partial(build, folded=True, compiled=True),
    "graph": partial(build, folded=True, graph=True),
    "map": partial(build, folded=True, forward=_mean_of_map),
    "resnet50-fp32": partial(plain, model="resnet50"),
    "resnet50-folded": partial(build, model="resnet50", folded=True),
    "resnet50-compiled": partial(build, model="resnet50", folded=True, compiled=True),
}
"""What builds each variant, by name; `bagnet.bench.lib.steps.network_of` knows those of ResNet-50 by theirs."""


def main(arguments: Sequence[str]) -> int:
    """Run the benchmark and print its table; returns the exit code."""
    parser = network_parser("infer", __doc__, VARIANTS, ON_CUDA, ON_CPU, rounds=5)
    options = parser.parse_args(arguments)
    device = prepare_device(options, ON_CUDA, ON_CPU)
    options.variants = choose(VARIANTS, options, device)
    _measure(options, device)
    return 0


def _measure(options: argparse.Namespace, device: torch.device) -> None:
    setting = Setting.synthetic(
        options.model, options.width, options.batch_size, options.image_size, options.device
    )
    calls: dict[str, Logits] = {}
    expected: dict[str, Tensor] = {}
    for name in options.variants:
        calls[name] = VARIANTS[name](setting)
        for _ in range(WARM_UP):
            logits = calls[name]()
        logits = logits.clone()
        check(name, logits, expected.setdefault(network_of(name, options.model), logits))
    dense = _dense(setting)
    dense()

    def measure(name: str) -> float:
        if name == "dense":
            return 1 / step_seconds(dense, 1, device)[0]
        seconds = step_seconds(calls[name], options.steps, device)
        return options.batch_size / statistics.median(seconds)

    rates = take_turns([*options.variants, "dense"], options.rounds, measure)
    maps = rates.pop("dense")
    reference = REFERENCE if REFERENCE in rates else None
    report(rates, options, "images", reference, {"dense_maps_per_second": maps})
    say = Console(highlight=False).print
    size = f"{options.image_size}x{options.image_size}"
    say(f"evidence around every pixel of {size}: {short(statistics.median(maps))} maps/s")
    say(f"{options.model} / ResNet-50 in images/s; in the paper: {PAPER:.2f}")
    for way in ("fp32", "folded", "compiled"):
        if {way, f"resnet50-{way}"} <= rates.keys():
            ratio = statistics.median(rates[way]) / statistics.median(rates[f"resnet50-{way}"])
            say(f"  {way}: {ratio:.2f}")
    flops = [
        count(name, options.width, options.image_size).forward_flops
        for name in ("resnet50", options.model)
    ]
    say(f"  by arithmetic alone: {flops[0] / flops[1]:.2f}")


def _dense(setting: Setting) -> Callable[[], Tensor]:
    network = _network(setting.model, setting).eval()
    image = normalize(setting.images[:1])[0]
    return lambda: dense_evidence(network, image, 0)
