"""What benchmarks of networks share: sizes, images, and the check that variants agree."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace

import torch
from rich.console import Console
from torch import Tensor

from bagnet.bench.lib.rounds import chosen, device_of
from bagnet.bench.options import StepOptions

GRAPHS = {"graph", "compiled-graph", "compiled-tuned"}
"""Variants that need a GPU, because they are CUDA graphs."""

TOLERANCE = 0.8
"""Largest distance of logits, relative to their length. bfloat16 moves those of a fresh network by
0.2 to 0.6, and another network's are 1.4 away. The tests compare more exactly, in float32."""

ON_CPU = {"batch_size": 16, "image_size": 64, "steps": 5}
ON_CUDA = {"batch_size": 128, "image_size": 224, "steps": 50}


@dataclass(frozen=True)
class Setting:
    """What all variants share.

    Attributes:
        model: Name of a BagNet (`bagnet.model.registry`).
        width: Channels of its first convolution.
        images: Random images, uint8 (B, 3, H, W) on the device.
        labels: Random labels, int64 (B,) on the device.
        steps: Steps of each turn.
    """

    model: str
    width: int
    images: Tensor
    labels: Tensor
    steps: int = 1

    @classmethod
    def synthetic(cls, options: StepOptions) -> Setting:
        """Draw random images for options that `prepared` returned."""
        assert options.batch_size is not None
        assert options.image_size is not None
        assert options.steps is not None
        generator = torch.Generator().manual_seed(0)
        shape = (options.batch_size, 3, options.image_size, options.image_size)
        images = torch.randint(256, shape, dtype=torch.uint8, generator=generator)
        labels = torch.randint(1000, shape[:1], generator=generator)
        device = device_of(options.device)
        return cls(
            options.model, options.width, images.to(device), labels.to(device), options.steps
        )

    @property
    def device(self) -> torch.device:
        return self.images.device

    @property
    def batch_size(self) -> int:
        return len(self.images)

    @property
    def image_size(self) -> int:
        return self.images.shape[-1]


def prepared(
    options: StepOptions,
    variants: Collection[str],
    left_out: Collection[str] = (),
    on_cuda: Mapping[str, int] = ON_CUDA,
) -> StepOptions:
    """Fill in the device, the sizes and the variants that were not given.

    Args:
        options: The settings.
        variants: All variants of this benchmark.
        left_out: Variants that are measured only on request.
        on_cuda: Sizes on a GPU.

    Raises:
        ValueError: There is no such device or variant, or a variant needs a GPU.
    """
    device = device_of(options.device)
    is_cuda = device.type == "cuda"
    if not is_cuda:
        for name in options.variants:
            if name in GRAPHS:
                raise ValueError(f"--variants {name}: CUDA graphs need a GPU; leave it out")
        Console().print("[bold]Figures of a CPU: they say nothing about GPUs.[/bold]")
        left_out = GRAPHS.union(left_out)
    defaults = on_cuda if is_cuda else ON_CPU
    return replace(
        options,
        device=str(device),
        variants=chosen(variants, options.variants, left_out),
        batch_size=options.batch_size or defaults["batch_size"],
        image_size=options.image_size or defaults["image_size"],
        steps=options.steps or defaults["steps"],
    )


def network_of(variant: str, model: str) -> str:
    """The network that a variant of a setting with this model runs."""
    return "resnet50" if variant.startswith("resnet50") else model


def check(name: str, logits: Tensor, expected: Tensor) -> None:
    """Refuse to compare variants that compute something else.

    Raises:
        ValueError: The logits differ from those of another variant by more than bfloat16 explains.
    """
    difference = (logits.float() - expected.float()).norm() / expected.float().norm()
    if not difference <= TOLERANCE:
        raise ValueError(
            f"{name} computes something else: its logits differ from those of another variant by "
            f"{difference:.0%}; leave it out of --variants, or fix it"
        )
