"""Ways to run a training step, for `bagnet.bench.train`: the table of variants is at the end."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from bagnet.bench.lib.report import parser_of
from bagnet.bench.lib.rounds import recorded
from bagnet.model.registry import BAGNETS, build_model
from bagnet.training import classifier
from bagnet.training.classifier import memory_format
from bagnet.training.optim import parameter_groups

REFERENCE = "channels-last"
GRAPHS = {"graph", "compiled-graph"}
ON_REQUEST = {*GRAPHS, "compiled-tuned"}
"""Not measured unless asked for: a graph keeps all memory of its step, and tuning takes many minutes."""
TOLERANCE = 0.8
"""Distance of logits, relative to their length: bfloat16 moves those of a fresh network by 0.2 to 0.6, and another network's
are 1.4 away. The tests compare more exactly, in float32."""


@dataclass(frozen=True)
class Setting:
    """What all variants share.

    Attributes:
        model: The name of a BagNet (`bagnet.model.registry`).
        width: Channels of its first convolution.
        images: uint8 (B, 3, H, W) on the device.
        labels: int64 (B,) on the device.
    """

    model: str
    width: int
    images: Tensor
    labels: Tensor

    @classmethod
    def synthetic(cls, model: str, width: int, batch: int, side: int, device: str) -> Setting:
        """Random images of side x side pixels with random labels."""
        generator = torch.Generator().manual_seed(0)
        images = torch.randint(256, (batch, 3, side, side), dtype=torch.uint8, generator=generator)
        labels = torch.randint(1000, (batch,), generator=generator)
        return cls(model, width, images.to(device), labels.to(device))


class Step:
    """A training step of a network with fresh weights, the same in all variants; calling it gives the loss.

    Args:
        setting: Data and network.
        model: Another network than the setting's.
        bf16: Whether to mix float32 with bfloat16.
        channels_last: Whether to lay weights and images out so, where that is safe.
        fused_sgd: Whether the optimizer takes one kernel for all.
        compiled: A mode of torch.compile, in which to compile the network, from the pixels on.
        graph: Whether to replay all steps after the first as a CUDA graph.
        prepare: Changes the network before its first step.

    Attributes:
        network: What is trained.
        logits: Those of the last step, (B, classes).
    """

    def __init__(
        self,
        setting: Setting,
        model: str | None = None,
        *,
        bf16: bool = True,
        channels_last: bool = True,
        fused_sgd: bool = False,
        compiled: str | None = None,
        graph: bool = False,
        prepare: Callable[[nn.Module], object] | None = None,
    ) -> None:
        self._images, self._labels, self._bf16 = setting.images, setting.labels, bf16
        self._logits_of = classifier.logits if compiled is None else classifier.compiled(compiled)
        device = setting.images.device
        self._layout = torch.contiguous_format
        if channels_last:
            self._layout = memory_format(device, setting.width)
        torch.manual_seed(0)
        network = build_model(model or setting.model, width=setting.width).to(device)
        self.network = network.to(memory_format=self._layout)
        if prepare is not None:
            prepare(self.network)
        self._optimizer = torch.optim.SGD(
            parameter_groups(self.network, 1e-4, decay_norm=True),
            lr=0.01 * len(setting.images) / 256,
            momentum=0.9,
            fused=fused_sgd or None,
        )

        self._graph, self._run = graph, self._step

    def __call__(self) -> Tensor:
        loss = self._run()
        if self._graph and self._run == self._step:
            self._run = self._record
        return loss

    def _record(self) -> Tensor:
        self._run = recorded(self._step)
        return self._run()

    def _step(self) -> Tensor:
        self._optimizer.zero_grad()
        # The cache of cast weights saves nothing here, as each is used once, and does not go with graphs.
        torch.compiler.cudagraph_mark_step_begin()  # for what compiles to graphs
        with torch.autocast(
            self._images.device.type, torch.bfloat16, enabled=self._bf16, cache_enabled=False
        ):
            logits = self._logits_of(self.network, self._images, self._layout)
        loss = F.cross_entropy(logits.float(), self._labels)
        loss.backward()
        self._optimizer.step()
        self.logits = logits.detach()
        return loss.detach()


def network_parser(
    name: str,
    description: str | None,
    variants: Collection[str],
    on_cuda: Mapping[str, int],
    on_cpu: Mapping[str, int],
    rounds: int,
) -> argparse.ArgumentParser:
    """The command line of a benchmark of networks; ``prepare_device`` and ``choose`` fill in what was not given."""
    parser = parser_of(name, description)
    add = parser.add_argument
    add("--model", choices=BAGNETS, default="bagnet33", help="(bagnet33)")
    add("--width", type=int, default=64, help="channels of its first convolution (64)")
    for size, text in {
        "batch_size": "images at a time",
        "image_size": "side in pixels",
        "steps": "of each variant and round",
    }.items():
        flag = "--" + size.replace("_", "-")
        add(flag, type=int, help=f"{text} ({on_cuda[size]}; on a CPU {on_cpu[size]})")
    add("--rounds", type=int, default=rounds, help=f"({rounds})")
    add("--device", default="cuda" if torch.cuda.is_available() else "cpu", help="(cuda if any)")
    add("--variants", nargs="+", choices=variants, metavar="NAME", help="(see above)")
    add("--out", type=Path, help="write the figures there as JSON")
    return parser


def choose(
    variants: Iterable[str],
    options: argparse.Namespace,
    device: torch.device,
    on_request: Collection[str] = (),
) -> list[str]:
    """``options.variants``, or all that the device has, but for those that have to be asked for.

    Raises:
        ValueError: One that was asked for needs a GPU.
    """
    missing = set() if device.type == "cuda" else set(GRAPHS)
    for name in options.variants or ():
        if name in missing:
            raise ValueError(f"--variants {name}: CUDA graphs need a GPU; leave it out")
    chosen = [name for name in variants if name not in {*missing, *on_request}]
    return options.variants or chosen


def checkpointed(network: nn.Module) -> None:
    """Keep the inputs of the blocks only. BatchNorm's running statistics then move twice a step, the gradients are the same."""
    for block in network.modules():
        if hasattr(block, "downsample"):
            block.forward = partial(checkpoint, block.forward, use_reentrant=False)


def network_of(variant: str, model: str) -> str:
    """The network that a variant of a setting with ``model`` runs."""
    return "resnet50" if variant.startswith("resnet50") else model


def check(name: str, logits: Tensor, expected: Tensor) -> None:
    """Refuse to compare what does not compute the same.

    Raises:
        ValueError: The logits differ from those of another variant by more than bfloat16 explains.
    """
    difference = (logits.float() - expected.float()).norm() / expected.float().norm()
    if not difference <= TOLERANCE:
        raise ValueError(
            f"{name} computes something else: its logits differ from those of another variant by "
            f"{difference:.0%}; leave it out of --variants, or mend it"
        )


VARIANTS: dict[str, Callable[[Setting], Step]] = {
    "fp32": partial(Step, bf16=False, channels_last=False),
    "bf16": partial(Step, channels_last=False),
    REFERENCE: Step,
    "fused-sgd": partial(Step, fused_sgd=True),
    "checkpointed": partial(Step, prepare=checkpointed),
    "graph": partial(Step, fused_sgd=True, graph=True),
    "compiled": partial(Step, fused_sgd=True, compiled="default"),
    "compiled-tuned": partial(Step, fused_sgd=True, compiled="max-autotune-no-cudagraphs"),
    "compiled-graph": partial(Step, fused_sgd=True, compiled="reduce-overhead"),
    "resnet50": partial(Step, model="resnet50"),
    "resnet50-compiled": partial(Step, model="resnet50", fused_sgd=True, compiled="default"),
}
"""What builds the step of each variant, by name; `network_of` knows those of ResNet-50 by theirs."""
