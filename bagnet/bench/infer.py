"""Measures how fast images are classified, beside ResNet-50.

The variants take turns in one process, after a warm-up in which the logits of the same network must
agree. The images are uint8 on the device, and normalising them counts. The weights are fresh.

* fp32, bf16: the plain network in true float32, or in bfloat16.
* channels-last: bf16 in channels-last memory; ratios refer to it.
* folded: channels-last, with each BatchNorm folded into its convolution.
* compiled: folded, compiled with torch.compile.
* graph: folded, replayed as a CUDA graph (only on a GPU).
* map: folded, with the evidence of each patch for all classes, whose mean is the logits.
* resnet50-fp32, resnet50-folded, resnet50-compiled: the same for torchvision's ResNet-50.

Afterwards it prints how many float32 maps of the evidence around every pixel, for one class, take
a second, and compares the speed with ResNet-50's; in the paper, these were 155 and 570 images/s
(Brendel & Bethge 2019).
"""

from __future__ import annotations

import statistics
from collections.abc import Callable, Mapping
from functools import partial

import torch
from rich.console import Console
from torch import Tensor, nn
from torch.fx.experimental.optimization import fuse

from bagnet.bench.lib.floors import count
from bagnet.bench.lib.report import report, short
from bagnet.bench.lib.rounds import recorded, step_seconds, take_turns
from bagnet.bench.lib.setting import ON_CUDA, Setting, check, network_of, prepared
from bagnet.bench.options import StepOptions
from bagnet.evidence.dense import dense_evidence
from bagnet.evidence.maps import evidence_map
from bagnet.model.folding import folded as folded_network
from bagnet.model.network import BagNet
from bagnet.model.registry import build_model, normalize
from bagnet.training.forward import memory_format

Logits = Callable[[], Tensor]
REFERENCE = "channels-last"
PAPER = 155 / 570
WARM_UP = 3  # calls


def run(options: StepOptions) -> None:
    """Run the benchmark and print its table.

    Raises:
        ValueError: A variant does not exist, or computes different logits.
    """
    options = prepared(options, VARIANTS, on_cuda={**ON_CUDA, "batch_size": 256})
    setting = Setting.synthetic(options)
    calls: dict[str, Logits] = {}
    expected: dict[str, Tensor] = {}
    for name in options.variants:
        calls[name] = VARIANTS[name](setting)
        for _ in range(WARM_UP):
            logits = calls[name]()
        logits = logits.clone()  # the next replay of a graph overwrites them
        check(name, logits, expected.setdefault(network_of(name, setting.model), logits))
    dense = _dense(setting)
    dense()

    def measure(name: str) -> float:
        if name == "dense":
            return 1 / step_seconds(dense, 1, setting.device)[0]
        seconds = step_seconds(calls[name], setting.steps, setting.device)
        return setting.batch_size / statistics.median(seconds)

    rates = take_turns([*options.variants, "dense"], options.rounds, measure)
    maps = rates.pop("dense")
    reference = REFERENCE if REFERENCE in rates else None
    report(rates, options, "images", reference, {"dense_maps_per_second": maps})
    _compare_with_resnet50(setting, rates, statistics.median(maps))


def _compare_with_resnet50(
    setting: Setting, rates: Mapping[str, list[float]], maps_per_second: float
) -> None:
    say = Console(highlight=False).print
    size = f"{setting.image_size}x{setting.image_size}"
    say(f"evidence around every pixel of {size}: {short(maps_per_second)} maps/s")
    say(f"{setting.model} / ResNet-50 in images/s; in the paper: {PAPER:.2f}")
    for way in ("fp32", "folded", "compiled"):
        if {way, f"resnet50-{way}"} <= rates.keys():
            ratio = statistics.median(rates[way]) / statistics.median(rates[f"resnet50-{way}"])
            say(f"  {way}: {ratio:.2f}")
    ours, resnet = (
        count(name, setting.width, setting.image_size).forward_flops
        for name in (setting.model, "resnet50")
    )
    say(f"  by arithmetic alone: {resnet / ours:.2f}")


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
    """Build a function that returns the logits (B, classes) of the setting's images.

    Args:
        setting: The images and the network.
        model: Another network than the setting's.
        dtype: Type of weights and activations.
        channels_last: Whether weights and images are in channels-last memory.
        folded: Whether each BatchNorm is folded into its convolution.
        compiled: Whether the network is compiled.
        graph: Whether the kernels are recorded once and replayed; only on CUDA.
        forward: Computes the logits from the network and normalised images; by default, the network
            is called.
    """
    layout = memory_format(setting.device, setting.width)
    layout = layout if channels_last else torch.contiguous_format
    network = _network(model or setting.model, setting)
    if folded:
        network = folded_network(network) if isinstance(network, BagNet) else fuse(network)
    network = network.to(dtype).to(memory_format=layout)
    if compiled:
        network.compile()
    call: Callable[[Tensor], Tensor] = network if forward is None else partial(forward, network)

    @torch.no_grad()
    def logits() -> Tensor:
        return call(normalize(setting.images, dtype).contiguous(memory_format=layout))

    if not graph:
        return logits
    with torch.cuda.device(setting.device):
        return recorded(logits)


@torch.no_grad()
def _network(name: str, setting: Setting) -> nn.Module:
    """A network with fresh weights, in evaluation mode.

    Its BatchNorm layers have seen the images, so that signals keep their size.
    """
    torch.manual_seed(0)
    network = build_model(name, width=setting.width).to(setting.device)
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.momentum = None  # the mean of all batches: here only one
    network(normalize(setting.images))
    return network.eval()


def _mean_of_map(network: nn.Module, images: Tensor) -> Tensor:
    return evidence_map(network, images).mean((2, 3))


def _dense(setting: Setting) -> Callable[[], Tensor]:
    network = _network(setting.model, setting)
    image = normalize(setting.images[:1])[0]
    return lambda: dense_evidence(network, image, 0)


_plain = partial(build, dtype=torch.float32, channels_last=False)
VARIANTS: dict[str, Callable[[Setting], Logits]] = {
    "fp32": _plain,
    "bf16": partial(build, channels_last=False),
    REFERENCE: build,
    "folded": partial(build, folded=True),
    "compiled": partial(build, folded=True, compiled=True),
    "graph": partial(build, folded=True, graph=True),
    "map": partial(build, folded=True, forward=_mean_of_map),
    "resnet50-fp32": partial(_plain, model="resnet50"),
    "resnet50-folded": partial(build, model="resnet50", folded=True),
    "resnet50-compiled": partial(build, model="resnet50", folded=True, compiled=True),
}
"""Builds each variant; `network_of` recognises ResNet-50 by the name."""
