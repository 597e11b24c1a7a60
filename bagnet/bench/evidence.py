"""Measures how fast every pixel gets its evidence, against evaluating each patch by itself.

The variants take turns in one process, after a warm-up in which all must give the same map. The
image is random, the network has fresh weights, and the evidence is for one class.

* single: the network on the patch around each pixel, one after the other, as the paper's code does.
* batches: the same in batches of 64 patches.
* shifts: the network on the whole image, shifted by each offset below its stride (64 passes).
* dense: `bagnet.dense_evidence`.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional as F

from bagnet.bench.lib.report import report
from bagnet.bench.lib.rounds import chosen, device_of, step_seconds, take_turns
from bagnet.bench.options import NetworkOptions
from bagnet.evidence.dense import dense_evidence
from bagnet.model.network import BagNet
from bagnet.model.registry import BAGNETS

BATCH = 64  # patches; the fastest of 16, 64 and 256 on one core
TARGET = 0


def run(options: NetworkOptions) -> None:
    """Run the benchmark and print its table.

    Raises:
        ValueError: A variant does not exist, or gives another map.
    """
    names, device = chosen(WAYS, options.variants), device_of(options.device)
    torch.manual_seed(0)
    model = BagNet(BAGNETS[options.model], width=options.width).eval().to(device)
    model = model.to(memory_format=torch.channels_last)
    side = options.image_size or 64
    image = torch.randn(3, side, side, device=device)
    small = image[:, :8, :8]
    expected = dense_evidence(model, small, TARGET)
    for name in names:  # the warm-up
        difference = (WAYS[name](model, small) - expected).abs().max().item()
        if not difference <= 1e-3 * expected.abs().max().item():
            raise ValueError(
                f"{name} differs by {difference:.2g} logits from the dense evidence: "
                f"leave it out of --variants, or fix it"
            )

    def rate(name: str) -> float:
        (seconds,) = step_seconds(lambda: WAYS[name](model, image), 1, device)
        return image[0].numel() / seconds

    report(take_turns(names, options.rounds, rate), options, "pixels")


@torch.no_grad()
def _patches(model: BagNet, image: Tensor, batch: int) -> Tensor:
    """Evaluate the network on the patch around each pixel, (H, W): the definition of evidence."""
    side = model.receptive_field
    patches = _padded(model, image)[0].unfold(1, side, 1).unfold(2, side, 1)
    places = torch.cartesian_prod(*map(torch.arange, image.shape[1:])).to(image.device)
    votes = []
    for part in torch.split(places, batch):
        rows, columns = part.unbind(1)
        inputs = patches[:, rows, columns].transpose(0, 1)
        votes.append(model(inputs.contiguous(memory_format=torch.channels_last))[:, TARGET])
    return torch.cat(votes).view(image.shape[1:])


@torch.no_grad()
def _shifts(model: BagNet, image: Tensor) -> Tensor:
    """Interleave the network's own maps of the shifted image, (H, W)."""
    padded, step = _padded(model, image), model.stride
    weight, bias = model.fc.weight[TARGET], model.fc.bias[TARGET]
    evidence = image.new_empty(image.shape[1:])
    for y in range(step):
        for x in range(step):
            features = model.features(padded[..., y:, x:])
            evidence[y::step, x::step] = torch.einsum("chw,c->hw", features[0], weight) + bias
    return evidence


def _padded(model: BagNet, image: Tensor) -> Tensor:
    padded = F.pad(image[None], [(model.receptive_field - 1) // 2] * 4)
    return padded.contiguous(memory_format=torch.channels_last)


WAYS: dict[str, Callable[[BagNet, Tensor], Tensor]] = {
    "single": lambda model, image: _patches(model, image, 1),
    "batches": lambda model, image: _patches(model, image, BATCH),
    "shifts": _shifts,
    "dense": lambda model, image: dense_evidence(model, image, TARGET),
}
