"""Two hundred steps of training with plain and with fused kernels: ``python curves.py [--dtype bfloat16]``.

A BagNet of few channels learns which of five textures an image holds, by the same steps on the same data: on the plain
network, on the fused kernels, on a plain network that was drawn from another seed, and, to see what rounding does, on the
plain network in float64. The curves of the first two must be nearer to each other than those of the two seeds.
"""

from __future__ import annotations

import argparse
import statistics

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from bagnet.kernels import fuse, tiles
from bagnet.model.network import BagNet, Bottleneck
from tests.bagnet.kernels.checks.reference import DEVICE

STEPS, WINDOW = 200, 20
CLASSES, BATCH, SIDE = 5, 8, 32

if tiles.INTERPRETED:  # whose time goes by the number of tiles
    tiles.ROWS, tiles.COLUMNS, tiles.GROUP, tiles.SPLITS = 512, 128, 512, 1


def network(seed: int) -> BagNet:
    """BagNet-9 with two blocks a stage, which add little to their residuals at first: as it is drawn, a network of few
    channels is chaotic, and float32 and float64 part within three steps."""
    torch.manual_seed(seed)
    model = BagNet(9, num_classes=CLASSES, width=4)
    for name in ("layer1", "layer2", "layer3", "layer4"):
        setattr(model, name, getattr(model, name)[:2])
    for module in model.modules():
        if isinstance(module, Bottleneck):
            nn.init.constant_(module.bn3.weight, 0.1)
    return model.to(DEVICE, memory_format=torch.channels_last)


def fused(seed: int) -> BagNet:
    model = network(seed)
    fuse(model, DEVICE)
    return model


def batch(step: int) -> tuple[Tensor, Tensor]:
    """Stripes of a direction and a width for each class, of random phase, in noise."""
    generator = torch.Generator().manual_seed(step)
    labels = torch.randint(CLASSES, (BATCH,), generator=generator)
    phases = 6.3 * torch.rand(BATCH, 1, 1, generator=generator)
    y, x = torch.meshgrid(torch.arange(SIDE), torch.arange(SIDE), indexing="ij")
    angles = (labels * torch.pi / CLASSES)[:, None, None]
    stripes = torch.sin((x * angles.cos() + y * angles.sin()) * 1.5 + phases)
    noise = torch.randn(BATCH, 3, SIDE, SIDE, generator=generator)
    images = stripes[:, None] + noise
    return images.to(DEVICE, memory_format=torch.channels_last), labels.to(DEVICE)


def train(model: nn.Module, steps: int, dtype: torch.dtype) -> list[float]:
    """The losses."""
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01, momentum=0.9, weight_decay=1e-4)
    losses = []
    for step in range(steps):
        images, labels = batch(step)
        images = images.to(next(model.parameters()).dtype)
        optimizer.zero_grad()
        with torch.autocast(DEVICE.type, dtype, enabled=dtype != torch.float32):
            logits = model(images)
        loss = F.cross_entropy(logits.float(), labels)
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return losses


def windows(losses: list[float]) -> list[float]:
    """Means over 20 steps each."""
    return [statistics.mean(losses[i : i + WINDOW]) for i in range(0, len(losses), WINDOW)]


def distance(a: list[float], b: list[float]) -> float:
    """Mean distance of two curves' windows."""
    return statistics.mean(abs(x - y) for x, y in zip(windows(a), windows(b), strict=True))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--dtype", choices=("float32", "bfloat16"), default="float32")
    options = parser.parse_args()
    dtype = getattr(torch, options.dtype)
    models = {"plain": network(0), "fused": fused(0), "plain, another seed": network(1)}
    curves = {name: train(model, STEPS, dtype) for name, model in models.items()}
    curves["plain, float64"] = train(network(0).double(), STEPS, torch.float32)
    for name, losses in curves.items():
        print(f"{name:20}", *(f"{loss:.3f}" for loss in windows(losses)))
    plain, mine, other, exact = curves.values()
    apart, spread = distance(plain, mine), distance(plain, other)
    rounding = distance(plain, exact)
    print(f"fused is {apart:.2g} from plain, another seed {spread:.2g}, float64 {rounding:.2g}")
    print(f"first step: {plain[0]:.7f} and {mine[0]:.7f}")
    assert windows(plain)[-1] < windows(plain)[0] / 2, "it does not learn"
    print("within the spread" if apart < spread else "apart")


if __name__ == "__main__":
    main()
