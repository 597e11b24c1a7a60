"""Ways to run a training step; the table of variants is at the end."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor, distributed, nn
from torch.nn import functional as F
from torch.nn.parallel import DistributedDataParallel

from bagnet.bench.lib.rounds import recorded
from bagnet.bench.lib.setting import GRAPHS, Setting
from bagnet.model.registry import build_model
from bagnet.training import forward
from bagnet.training.command_line.trainer import ddp_settings
from bagnet.training.recipe.optim import parameter_groups

REFERENCE = "channels-last"
ON_REQUEST = {*GRAPHS, "ddp", "compiled-benchmark", "compiled-symbolic"}
"""Measured only on request: a graph keeps all memory of its step, and compiling takes minutes."""


class Step:
    """A training step of a network with fresh weights, equal in all variants; returns the loss.

    Args:
        setting: The images and the network.
        model: Another network than the setting's.
        bf16: Whether to compute in bfloat16 where autocast does.
        channels_last: Whether weights and images are in channels-last memory, where that is safe.
        fused_sgd: Whether the optimizer is a single kernel.
        cudnn_benchmark: Whether cuDNN searches for the fastest way to compute each convolution.
        ddp: Whether the network is wrapped for distributed training, of one process here.
        compiled: Mode of torch.compile for the network, including the normalisation of the pixels.
        symbolic: Whether the network is compiled for any batch size; only with `compiled`.
        graph: Whether all steps after the first are replays of a CUDA graph.

    Attributes:
        network: The network that is trained.
        called: The network, or what wraps it.
        logits: Logits of the last step, (B, classes); a replay overwrites them.
    """

    def __init__(
        self,
        setting: Setting,
        model: str | None = None,
        *,
        bf16: bool = True,
        channels_last: bool = True,
        fused_sgd: bool = False,
        cudnn_benchmark: bool = False,
        ddp: bool = False,
        compiled: str | None = None,
        symbolic: bool = False,
        graph: bool = False,
    ) -> None:
        self._images, self._labels, self._bf16 = setting.images, setting.labels, bf16
        self._logits_of = forward.logits if compiled is None else forward.compiled(compiled)
        self._layout = torch.contiguous_format
        if channels_last:
            self._layout = forward.memory_format(setting.device, setting.width)
        torch.manual_seed(0)
        network = build_model(model or setting.model, width=setting.width).to(setting.device)
        self.network = network.to(memory_format=self._layout)
        self._optimizer = torch.optim.SGD(
            parameter_groups(self.network, 1e-4, decay_norm=True),
            lr=0.01 * setting.batch_size / 256,
            momentum=0.9,
            fused=fused_sgd or None,
        )
        self.called: nn.Module = self.network
        if ddp:
            _join_group(setting.device)
            self.called = DistributedDataParallel(self.network, **ddp_settings(1))
        if symbolic:
            self._logits_of = torch.compile(forward.logits, mode=compiled)
            with torch.no_grad():  # torch compiles the second size that it sees for any size
                self._logits_of(self.network, self._images[1:], self._layout)
        self._cudnn_benchmark = cudnn_benchmark
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
        torch.backends.cudnn.benchmark = self._cudnn_benchmark
        self._optimizer.zero_grad()
        torch.compiler.cudagraph_mark_step_begin()  # for the mode reduce-overhead
        # Autocast's cache of weights would save nothing, because each is used once, and it does not
        # work with graphs.
        with torch.autocast(
            self._images.device.type, torch.bfloat16, enabled=self._bf16, cache_enabled=False
        ):
            logits = self._logits_of(self.called, self._images, self._layout)
        loss = F.cross_entropy(logits.float(), self._labels)
        loss.backward()
        self._optimizer.step()
        self.logits = logits.detach()
        return loss.detach()


def _join_group(device: torch.device) -> None:
    """Make this process a group of its own, if it is in none."""
    if distributed.is_initialized():
        return
    backend = "nccl" if device.type == "cuda" else "gloo"
    store = distributed.HashStore()  # type: ignore[attr-defined]
    distributed.init_process_group(backend, store=store, rank=0, world_size=1)


def leave_group() -> None:
    """End what variants with DDP began."""
    if distributed.is_initialized():
        distributed.destroy_process_group()


VARIANTS: dict[str, Callable[[Setting], Step]] = {
    "fp32": partial(Step, bf16=False, channels_last=False),
    "bf16": partial(Step, channels_last=False),
    REFERENCE: Step,
    "fused-sgd": partial(Step, fused_sgd=True),
    "cudnn-benchmark": partial(Step, fused_sgd=True, cudnn_benchmark=True),
    "ddp": partial(Step, fused_sgd=True, ddp=True),
    "graph": partial(Step, fused_sgd=True, graph=True),
    "compiled": partial(Step, fused_sgd=True, compiled="default"),
    "compiled-benchmark": partial(Step, fused_sgd=True, cudnn_benchmark=True, compiled="default"),
    "compiled-symbolic": partial(Step, fused_sgd=True, compiled="default", symbolic=True),
    "compiled-tuned": partial(Step, fused_sgd=True, compiled="max-autotune"),
    "compiled-graph": partial(Step, fused_sgd=True, compiled="reduce-overhead"),
    "resnet50": partial(Step, model="resnet50"),
    "resnet50-compiled": partial(Step, model="resnet50", fused_sgd=True, compiled="default"),
}
"""Builds the step of each variant; `network_of` recognises ResNet-50 by the name."""
