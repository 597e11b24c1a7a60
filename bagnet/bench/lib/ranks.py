"""The predictions of `bagnet.bench.lib.scaling` against 1, 2 and 4 real ranks, over gloo on this machine's CPU.

Measured parts: the step of one rank; an all-reduce of few and of many numbers by two, which give latency and bandwidth; and
which share of a core each of N processes gets while all of them do nothing but count: 1/2 for 4 on 2 idle cores, and less
where other programs run. Predicted: the steps of 2 and 4 ranks, and the all-reduces of 4. Nothing hides an all-reduce here, as
gloo and the arithmetic want the same cores. It mostly waits, so a smaller share does not stretch it.
"""

from __future__ import annotations

import statistics
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import distributed, multiprocessing
from torch.nn import functional as F
from torch.nn.parallel import DistributedDataParallel

from bagnet.bench.lib.rounds import step_seconds
from bagnet.bench.lib.scaling import exposed_seconds, ring_seconds
from bagnet.model.network import BagNet

RANKS = (1, 2, 4)
FEW = 1  # numbers, for the latency
WARM_UP = 3  # steps
SPIN = 1.0  # seconds
CPU = torch.device("cpu")

Seconds = dict[str, float]


def measure(ranks: int, width: int, steps: int) -> Seconds:
    """Medians of "step", and of all-reduces of "few" and of "many" numbers (as many as the network has parameters).

    Beside these seconds, the "share" of a core that a rank gets.
    """
    with tempfile.TemporaryDirectory() as folder:
        multiprocessing.spawn(_rank, (ranks, folder, width, steps), nprocs=ranks)
        return torch.load(Path(folder, "seconds"), weights_only=True)


def _rank(rank: int, ranks: int, folder: str, width: int, steps: int) -> None:
    torch.set_num_threads(1)
    distributed.init_process_group(
        "gloo", init_method=f"file://{folder}/meeting", rank=rank, world_size=ranks
    )
    torch.manual_seed(0)
    network = BagNet(33, width=width)
    size = parameters(width)
    model = DistributedDataParallel(network)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    images, labels = torch.randn(8, 3, 64, 64), torch.randint(1000, (8,))

    def step() -> None:
        optimizer.zero_grad()
        F.cross_entropy(model(images), labels).backward()
        optimizer.step()

    few, many = torch.zeros(FEW), torch.zeros(size)
    step_seconds(step, WARM_UP, CPU)
    share = _share()
    seconds = {
        "step": statistics.median(step_seconds(step, steps, CPU)),
        "few": statistics.median(
            step_seconds(lambda: distributed.all_reduce(few), 10 * steps, CPU)
        ),
        "many": statistics.median(
            step_seconds(lambda: distributed.all_reduce(many), 3 * steps, CPU)
        ),
        "share": (share + _share()) / 2,
    }
    if rank == 0:
        torch.save(seconds, Path(folder, "seconds"))
    distributed.destroy_process_group()


def parameters(width: int) -> int:
    """Of the network that the ranks train."""
    with torch.device("meta"):
        return sum(parameter.numel() for parameter in BagNet(33, width=width).parameters())


def _share() -> float:
    """The share of a core that this process gets while it counts for a second, with all other ranks."""
    distributed.barrier()
    wall, cpu = time.perf_counter(), time.process_time()
    while time.perf_counter() < wall + SPIN:
        pass
    return (time.process_time() - cpu) / (time.perf_counter() - wall)


def predict(ranks: int, found: Mapping[int, Seconds], size: float) -> Seconds:
    """What `measure` should find.

    Args:
        ranks: How many.
        found: What it found for 1 and 2 ranks, and the share of a core for ``ranks``.
        size: Bytes of the gradients.
    """
    one, two = found[1], found[2]
    latency = two["few"] / 2  # a ring of two has two hops
    bandwidth = (size - 4 * FEW) / (two["many"] - two["few"])
    many = ring_seconds(size, ranks, bandwidth, latency)
    compute = one["step"] * one["share"] / found[ranks]["share"]
    return {
        "step": compute + exposed_seconds(compute, 0.0, [many]),
        "few": ring_seconds(4 * FEW, ranks, bandwidth, latency),
        "many": many,
    }
