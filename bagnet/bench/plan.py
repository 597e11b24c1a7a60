"""Measures what the order of an epoch costs a rank, in time and memory.

The alternative is to list and shuffle all sample ids. Each measurement has a process of its own,
and nothing is read: the manifests are arithmetic, with 1,000 samples in each shard. The variants
take turns, for each data set and number of ranks.

* plan: `datamodules.plan.TrainPlan`.
* sampler: `torch.utils.data.DistributedSampler`, which draws a permutation of all samples on every
  rank, as a list.

"begin" is the time until a rank knows the samples of its first batch, "resume" the time until it
knows those in the middle of epoch 7, and "epoch" the time for all its batches, one by one.
"""

from __future__ import annotations

import multiprocessing
import statistics
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any, cast

import numpy as np
from torch.utils.data import Dataset, DistributedSampler

from bagnet.bench.lib.report import short, show, write
from bagnet.bench.lib.rounds import take_turns
from bagnet.bench.options import PlanOptions
from datamodules.plan import TrainPlan

SHARD = 1000  # samples
SEED = 0

Batch = Callable[[int], Sequence[int] | np.ndarray]
Order = Callable[[int, int, int, int], Batch]


def run(options: PlanOptions) -> None:
    """Run the benchmark and print its table.

    Raises:
        ValueError: A data set has less samples than the ranks' first batches.
    """
    needed = max(options.ranks) * options.batch_size
    for samples in options.samples:
        if samples < needed:
            raise ValueError(
                f"--samples {samples}: {max(options.ranks)} ranks take {needed} in their first "
                f"batch; choose more samples or fewer ranks"
            )
    cases = {
        f"{samples:,} / {ranks:,} {way}": (way, samples, ranks, options.batch_size)
        for samples in options.samples
        for ranks in options.ranks
        for way in ORDERS
    }
    figures = take_turns(list(cases), options.rounds, lambda name: _in_process(*cases[name]))
    rows = []
    for name, rounds in figures.items():
        *seconds, mib = (statistics.median(values) for values in zip(*rounds, strict=True))
        begin, resume, epoch = (short(1e3 * median) for median in seconds)
        begins = [1e3 * values[0] for values in rounds]
        spread = f"{short(min(begins))}-{short(max(begins))}"
        rows.append([name, begin, spread, resume, epoch, short(mib)])
    show(["samples / ranks, way", "begin ms", "range", "resume ms", "epoch ms", "MiB"], rows)
    write(options, {"begin_resume_epoch_seconds_mib": figures})


def _in_process(way: str, samples: int, ranks: int, batch: int) -> tuple[float, ...]:
    """Run `measure` in a fresh process, whose memory contains nothing else."""
    spawn = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(1, mp_context=spawn) as process:
        return process.submit(measure, way, samples, ranks, batch).result()


def measure(way: str, samples: int, ranks: int, batch: int) -> tuple[float, ...]:
    """Measure the last rank: seconds to begin, to resume and of an epoch, and MiB of memory."""
    order = ORDERS[way]
    order(0, 2 * batch, 2, batch)(0)  # imports, and whatever is made only once
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
    dataset = cast(Dataset[Any], range(samples))  # only its length is used
    sampler: DistributedSampler[Any] = DistributedSampler(
        dataset, ranks, ranks - 1, seed=SEED, drop_last=True
    )
    sampler.set_epoch(epoch)
    ids = list(sampler)
    return lambda step: ids[step * batch : (step + 1) * batch]


ORDERS: dict[str, Order] = {"plan": by_plan, "sampler": by_sampler}


def _peak_mib() -> float:
    """The most memory that this process has used. `resource` would count its parent's too."""
    status = Path("/proc/self/status").read_text()
    (kib,) = (line.split()[1] for line in status.splitlines() if line.startswith("VmHWM:"))
    return int(kib) / 1024
