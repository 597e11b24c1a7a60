"""How well each shuffle window mixes the batches, compared with random ones.

For each window, the table shows how often two samples of one shard, or of one class, are in the
same batch, as a multiple of chance. A shuffle within windows of a few shards brings samples of one
shard together more often than chance. If shards are random samples of the data, as `pack` writes
them, the classes of a batch do not show it. If shards are sorted by class, they do, and SGD
suffers.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import numpy as np
from jsonargparse.typing import PositiveInt
from rich.console import Console
from rich.progress import track
from rich.table import Table

from datamodules.common import commands
from datamodules.plan import Ids, TrainPlan
from datamodules.shards.manifest import Manifest

_WANTED_PAIRS = 10_000  # gives the rate to about one percent
_MAX_STEPS = 400
_AT_ONCE = 1 << 20


@dataclass(frozen=True)
class Pairs:
    """Pairs of samples of one group (class or shard) that are in the same batch.

    Attributes:
        found: Number of pairs in the batches of a plan.
        by_chance: Mean number of pairs in as many random batches.
    """

    found: int
    by_chance: float

    @property
    def rate(self) -> float:
        """1 for random batches; 2 if samples of a group meet twice as often; NaN if none can."""
        return self.found / self.by_chance if self.by_chance else math.nan

    @property
    def is_clustered(self) -> bool:
        """Whether samples of a group meet at least a fifth more often, and not by accident.

        In random batches, the count is nearly Poisson distributed, so that a deviation of five
        standard deviations practically never happens.
        """
        return self.rate > 1.2 and self.found - self.by_chance > 5 * self.by_chance**0.5


def count_pairs(groups: Ids, plan: TrainPlan) -> Pairs:
    """Count the pairs of samples of one group, in batches spread over the epoch.

    Args:
        groups: Group of each sample by its id, int64 (samples,), from 0.
        plan: Plan of the epoch.
    """
    sizes = _sizes(groups).astype(float)
    same = float((sizes * (sizes - 1)).sum()) / max(1.0, len(groups) * (len(groups) - 1.0))
    in_a_batch = same * plan.global_batch * (plan.global_batch - 1) / 2
    wanted = min(_MAX_STEPS, len(plan), int(_WANTED_PAIRS / max(in_a_batch, 1e-9)) + 1)
    steps = np.unique(np.linspace(0, len(plan) - 1, wanted).astype(int))
    found = 0
    for step in steps.tolist():
        counts = np.bincount(groups[plan.batch(step)])
        found += int((counts * (counts - 1) // 2).sum())
    return Pairs(found, in_a_batch * len(steps))


def _sizes(groups: Ids) -> Ids:
    """`np.bincount`, which would first copy a billion labels into integers of twice the size."""
    sizes = np.zeros(0, dtype=np.int64)
    for begin in range(0, len(groups), _AT_ONCE):
        found = np.bincount(groups[begin : begin + _AT_ONCE], minlength=len(sizes))
        found[: len(sizes)] += sizes
        sizes = found
    return sizes


def clustering_warning(manifest: Manifest, plan: TrainPlan) -> str | None:
    """What to tell a user whose batches are badly mixed; None if they are well mixed."""
    pairs = count_pairs(np.asarray(manifest.samples["label"]), plan)
    if not pairs.is_clustered:
        return None
    return (
        f"the shards in {manifest.root} are sorted by class: two images of a batch are of one "
        f"class {pairs.rate:.1f} times as often as in random batches, which harms the training. "
        "Pack them again to mix them (`python -m datamodules.pack wds SHARDS OUT`), or use a "
        f"larger --data.window (now {plan.window} of {len(manifest.shards)} shards; "
        f"`python -m datamodules.mixing {manifest.root.parent}` shows the effect of each)"
    )


@dataclass(frozen=True)
class PlanOptions:
    """The plan of an epoch.

    Args:
        batch_size: Images in a training batch over all devices and nodes.
        streams: Number of streams that an epoch is cut into.
    """

    batch_size: PositiveInt = 256
    streams: PositiveInt = 64


@dataclass(frozen=True)
class MixingOptions:
    """Options of the command.

    Args:
        root: Folder of packed data; its training split is examined.
        data: The plan of an epoch, as in a training.
    """

    root: Path
    data: PlanOptions = field(default_factory=PlanOptions)


def run(options: MixingOptions) -> None:
    """Print the table.

    Raises:
        ValueError: There is no such data, or it is less than one batch.
    """
    # Allows commands as sources, because it does not run them.
    manifest = Manifest.load(options.root / "train", allow_pipe=True)
    Console().print(_table(manifest, options.data.batch_size, options.data.streams))


def _table(manifest: Manifest, batch_size: int, streams: int) -> Table:
    shards = len(manifest.shards)
    plan = partial(
        TrainPlan, manifest.counts, seed=0, epoch=0, global_batch=batch_size, streams=streams
    )
    if len(plan()) == 0:
        raise ValueError(
            f"{manifest.num_samples} samples are less than one batch of {batch_size}: give a "
            f"batch_size of at most {manifest.num_samples}"
        )
    of_shard = np.repeat(np.arange(shards), manifest.counts)
    labels = np.asarray(manifest.samples["label"])
    gigabytes = float(manifest.shards.bytes.sum()) / 1e9
    table = Table("window", "in use, GB", "one shard", "one class", title=f"{shards:,} shards")
    # All windows as long as a stream are equal, except for the one that ignores the streams.
    windows = [2**i for i in range(64) if 2**i < min(shards, 2 * shards / streams)]
    for window in track([*windows, shards], console=Console(stderr=True), transient=True):
        rates = [count_pairs(groups, plan(window=window)).rate for groups in (of_shard, labels)]
        in_use = gigabytes * min(1.0, window * streams / shards)
        name = "all" if window == shards else f"{window}"
        shown = ("-" if math.isnan(rate) else f"{rate:.2f}" for rate in rates)
        table.add_row(name, f"{in_use:.3g}", *shown)
    return table


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit code."""
    command = commands.Command("datamodules.mixing", MixingOptions, ("root",))
    return commands.main("python -m datamodules.mixing", command, arguments)


if __name__ == "__main__":
    sys.exit(main())
