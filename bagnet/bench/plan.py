"""What the order of an epoch costs a rank, in seconds and MiB.

The alternative is to list and to shuffle all sample ids. Each measurement is done in a process of its own, and nothing is
read: the manifests are arithmetic, of shards with 1,000 samples each. Both ways take turns, for each data set and number of
ranks.

* plan: `datamodules.plan.TrainPlan`.
* sampler: `torch.utils.data.DistributedSampler`, which draws `torch.randperm` of all samples on every rank, as a list.

"begin" is the time until a rank knows the samples of its first batch, "resume" until those of the batch in the middle of
epoch 7, "epoch" the time for all its batches, one after the other.
"""

from __future__ import annotations

import multiprocessing
import statistics
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import cast

import numpy as np
from torch.utils.data import Dataset, DistributedSampler

from bagnet.bench.lib.report import parser_of, short, show, write
from bagnet.bench.lib.rounds import take_turns
from datamodules.plan import TrainPlan

DATA_SETS = {"imagenet-1k": 1_281_167, "imagenet-21k": 14_197_122}
SHARD = 1000  # samples
SEED = 0

Batch = Callable[[int], Sequence[int] | np.ndarray]
Order = Callable[[int, int, int, int], Batch]


def main(arguments: Sequence[str]) -> int:
    """Run the benchmark and print its table; returns the exit code."""
    parser = parser_of("plan", __doc__)
    add = parser.add_argument
    add("--samples", type=int, nargs="+", default=list(DATA_SETS.values()), help="in a data set")
    add("--ranks", type=int, nargs="+", default=[8, 512, 4096], help="(8 512 4096)")
    add("--batch-size", type=int, default=32, help="of a rank (32)")
    add("--rounds", type=int, default=3, help="(3)")
    add("--out", type=Path, help="write the figures there as JSON")
    options = parser.parse_args(arguments)
    for samples in options.samples:
        if samples < max(options.ranks) * options.batch_size:
            raise ValueError(
                f"--samples {samples}: {max(options.ranks)} ranks take "
                f"{max(options.ranks) * options.batch_size} in their first batch; choose fewer"
            )
    cases = {
        f"{samples:,} / {ranks:,} {way}": (way, samples, ranks, options.batch_size)
        for samples in options.samples
        for ranks in options.ranks
        for way in ORDERS
    }
    figures = take_turns(list(cases), options.rounds, lambda name: _apart(*cases[name]))
    rows = []
    for name, rounds in figures.items():
        (*seconds, mib) = (statistics.median(values) for values in zip(*rounds, strict=True))
        begin, resume, epoch = (short(1e3 * median) for median in seconds)
        begins = [1e3 * values[0] for values in rounds]
        spread = f"{short(min(begins))}-{short(max(begins))}"
        rows.append([name, begin, spread, resume, epoch, short(mib)])
    show(["samples / ranks, way", "begin ms", "range", "resume ms", "epoch ms", "MiB"], rows)
    write(options, {"begin_resume_epoch_seconds_mib": figures})
    return 0


def _apart(way: str, samples: int, ranks: int, batch: int) -> tuple[float, float, float, float]:
    """`measure` in a fresh process, whose memory tells of nothing else."""
    spawn = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(1, mp_context=spawn) as process:
        return process.submit(measure, way, samples, ranks, batch).result()


def measure(way: str, samples: int, ranks: int, batch: int) -> tuple[float, float, float, float]:
    """Seconds to begin, to resume and for an epoch, and MiB that this process grew by, for the last rank."""
    order = ORDERS[way]
    order(0, 2 * batch, 2, batch)(0)  # what is imported and made once
    steps = samples // (ranks * batch)
    before = _peak_mib()
    moments = [time.perf_counter()]
    first_epoch = order(0, samples, ranks, batch)
    first_epoch(0)
    moments.append(time.perf_counter())
    for step in range(steps):
        first_epoch(step)
    moments.append(time.perf_counter())
    order(7, samples, ranks, batch)(steps // 2)
    moments.append(time.perf_counter())
    begin, rest, resume = np.diff(moments).tolist()
    return begin, resume, begin + rest, _peak_mib() - before


def by_plan(epoch: int, samples: int, ranks: int, batch: int) -> Batch:
    """The last rank's batches, by number."""
    counts = np.full(-(-samples // SHARD), SHARD)
    counts[-1] -= counts.sum() - samples
    plan = TrainPlan(counts, seed=SEED, epoch=epoch, global_batch=ranks * batch)
    return lambda step: plan.batch(step, ranks - 1, ranks)


def by_sampler(epoch: int, samples: int, ranks: int, batch: int) -> Batch:
    """The last rank's batches, by number."""
    everything = cast(Dataset, range(samples))  # of which it takes the length only
    sampler: DistributedSampler = DistributedSampler(
        everything, ranks, ranks - 1, seed=SEED, drop_last=True
    )
    sampler.set_epoch(epoch)
    ids = list(sampler)
    return lambda step: ids[step * batch : (step + 1) * batch]


ORDERS: dict[str, Order] = {"plan": by_plan, "sampler": by_sampler}


def _peak_mib() -> float:
    """The most memory that this process had resident since it began. `resource` would tell of the one that started it, too."""
    status = Path("/proc/self/status").read_text()
    (kib,) = (line.split()[1] for line in status.splitlines() if line.startswith("VmHWM:"))
    return int(kib) / 1024
