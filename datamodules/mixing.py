"""How far the batches of a plan are from random ones.

python -m datamodules.mixing /data/shards --batch-size 256

A shuffle inside windows of a few shards lets samples of one shard meet more often than chance would.
Where shards are random samples of the data, as `pack` writes them, this cannot be told from the
classes of a batch. Where they are sorted by class, it can, and SGD suffers from it.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.progress import track
from rich.table import Table

from datamodules.plan import Ids, TrainPlan
from datamodules.shards.manifest import Manifest

_WANTED_PAIRS = 10_000  # gives the rate to about one percent
_MAX_STEPS = 400


@dataclass(frozen=True)
class Meetings:
    """Pairs of samples of one group (class, shard) that were found in some batches.

    Attributes:
        found: in the batches of the plan.
        by_chance: how many random batches of the same sizes hold on average.
    """

    found: int
    by_chance: float

    @property
    def rate(self) -> float:
        """1 for random batches, 2 where two samples of a group meet twice as often."""
        return self.found / self.by_chance

    @property
    def is_clustered(self) -> bool:
        """Whether they meet at least a fifth more often, and not by accident.

        In random batches the count is about Poisson's; five of its deviations never happen.
        """
        return self.rate > 1.2 and self.found - self.by_chance > 5 * self.by_chance**0.5


def meetings(groups: Ids, plan: TrainPlan) -> Meetings:
    """Count the pairs of a group that meet, in batches spread over the epoch.

    Args:
        groups: the group of each sample by its id, integers from 0 on (samples,).
        plan: of the epoch.
    """
    sizes = np.bincount(groups).astype(float)
    same = float((sizes * (sizes - 1)).sum()) / max(1.0, len(groups) * (len(groups) - 1.0))
    in_a_batch = same * plan.global_batch * (plan.global_batch - 1) / 2
    wanted = min(_MAX_STEPS, len(plan), int(_WANTED_PAIRS / max(in_a_batch, 1e-9)) + 1)
    steps = np.unique(np.linspace(0, len(plan) - 1, wanted).astype(int))
    found = 0
    for step in steps.tolist():
        counts = np.bincount(groups[plan.batch(step)])
        found += int((counts * (counts - 1) // 2).sum())
    return Meetings(found, in_a_batch * len(steps))


def clustering_warning(manifest: Manifest, plan: TrainPlan) -> str | None:
    """What to tell a user whose batches are not mixed, or None if they are."""
    rate = meetings(np.asarray(manifest.samples["label"]), plan)
    if not rate.is_clustered:
        return None
    return (
        f"the shards in {manifest.root} are sorted by class: two images of a batch are of one class "
        f"{rate.rate:.1f} times as often as in random batches, and training suffers from it. Packing "
        "them again mixes them (`python -m datamodules.pack wds SHARDS OUT`); so does a larger "
        f"--data.window (now {plan.window} of {len(manifest.shards)} shards; "
        f"`python -m datamodules.mixing {manifest.root.parent}` shows what each gives)"
    )


def main(arguments: Sequence[str] | None = None) -> int:
    """Print a table of shuffle windows; returns the exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m datamodules.mixing",
        description="For each shuffle window: how often two samples of one shard, or of one class, "
        "meet in a batch, as a multiple of chance.",
        allow_abbrev=False,
    )
    parser.add_argument("root", metavar="DIR", type=Path, help="the packed data (DIR/train)")
    parser.add_argument("--batch-size", type=int, default=256, help="over all GPUs (256)")
    parser.add_argument("--streams", type=int, default=64, help="as --data.streams (64)")
    options = parser.parse_args(arguments)
    try:
        # The commands of `pipe:` shards are not run here.
        manifest = Manifest.load(options.root / "train", allow_pipe=True)
        table = _table(manifest, options.batch_size, options.streams)
    except ValueError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    Console().print(table)
    return 0


def _table(manifest: Manifest, batch_size: int, streams: int) -> Table:
    shards = len(manifest.shards)
    plan = partial(
        TrainPlan, manifest.counts, seed=0, epoch=0, global_batch=batch_size, streams=streams
    )
    if len(plan()) == 0:
        raise ValueError(f"{manifest.num_samples} samples are less than one batch of {batch_size}")
    of_shard = np.repeat(np.arange(shards), manifest.counts)
    labels = np.asarray(manifest.samples["label"])
    gigabytes = sum(shard.bytes for shard in manifest.shards) / 1e9
    table = Table("window", "in use, GB", "one shard", "one class", title=f"{shards:,} shards")
    # Windows as long as a stream are all the same, up to the one that takes no notice of streams.
    windows = [2**i for i in range(64) if 2**i < min(shards, 2 * shards / streams)]
    for window in track([*windows, shards], console=Console(stderr=True), transient=True):
        rates = [meetings(groups, plan(window=window)).rate for groups in (of_shard, labels)]
        in_use = gigabytes * min(1.0, window * streams / shards)
        name = "all" if window == shards else f"{window}"
        table.add_row(name, f"{in_use:.3g}", *(f"{rate:.2f}" for rate in rates))
    return table


if __name__ == "__main__":
    sys.exit(main())
