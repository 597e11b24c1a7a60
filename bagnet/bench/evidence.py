"""How many pixels a second get their evidence, against evaluating every patch by itself.

All ways take turns in one process, after a warm-up each, so that whatever else the machine does hits all of them alike. The
image is random, the network has fresh weights, and the evidence is for one class. All ways must give the same map.

* single: the network on the patch around every pixel, one after the other, as the paper's code does.
* batches: the same, in batches of 64 patches.
* shifts: the network on the whole image, shifted by every offset below its stride (64 passes).
* dense: `bagnet.dense_evidence`.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from torch import Tensor
from torch.nn import functional as F

from bagnet.bench.lib.report import parser_of, report
from bagnet.bench.lib.rounds import step_seconds, take_turns
from bagnet.evidence.dense import dense_evidence
from bagnet.model.network import BagNet

BATCH = 64  # patches; the fastest of 16, 64 and 256 on one core
TARGET = 0


def main(arguments: Sequence[str]) -> int:
    """Run the benchmark and print its table; returns the exit code."""
    parser = parser_of("evidence", __doc__)
    add = parser.add_argument
    add("--patch", type=int, default=33, help="of the BagNet: 9, 17 or 33 (default)")
    add("--width", type=int, default=64, help="its channels (64)")
    add("--image-size", type=int, default=64, help="side in pixels (64)")
    add("--threads", type=int, default=1, help="on a CPU (1)")
    add("--device", default="cpu", help="(cpu)")
    add("--rounds", type=int, default=3, help="(3)")
    add("--variants", nargs="+", choices=WAYS, default=list(WAYS), help="(all)")
    add("--out", type=Path, help="write the figures there as JSON")
    options = parser.parse_args(arguments)
    torch.set_num_threads(options.threads)
    report(_measure(options), options, "pixels")
    return 0


def _measure(options: argparse.Namespace) -> dict[str, list[float]]:
    """Pixels a second of every way, round by round."""
    torch.manual_seed(0)
    model = BagNet(options.patch, width=options.width).eval().to(options.device)
    model = model.to(memory_format=torch.channels_last)
    image = torch.randn(3, options.image_size, options.image_size, device=options.device)
    small = image[:, :8, :8]
    expected = dense_evidence(model, small, TARGET)
    for name in options.variants:  # the warm-up
        difference = (WAYS[name](model, small) - expected).abs().max().item()
        if not difference <= 1e-3 * expected.abs().max().item():
            raise ValueError(f"{name} differs by {difference:.2g} logits from the dense evidence")

    def rate(name: str) -> float:
        (seconds,) = step_seconds(lambda: WAYS[name](model, image), 1, image.device)
        return options.image_size**2 / seconds

    return take_turns(options.variants, options.rounds, rate)


@torch.no_grad()
def _patches(model: BagNet, image: Tensor, batch: int) -> Tensor:
    """The definition: the network on the patch around every pixel, (H, W)."""
    side = model.receptive_field
    patches = _padded(model, image)[0].unfold(1, side, 1).unfold(2, side, 1)
    places = torch.cartesian_prod(*map(torch.arange, image.shape[1:])).to(image.device)
    votes = [
        model(
            patches[:, rows, columns].transpose(0, 1).contiguous(memory_format=torch.channels_last)
        )[:, TARGET]
        for rows, columns in (part.unbind(1) for part in places.split(batch))
    ]
    return torch.cat(votes).view(image.shape[1:])


@torch.no_grad()
def _shifts(model: BagNet, image: Tensor) -> Tensor:
    """The network's own maps of the shifted image, put together, (H, W)."""
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
