"""One of four real processes that read data sets together: ``python ranks.py RANK FOLDER START_METHOD``.

For every number of ranks, workers and shards, the ranks train an epoch and validate, meeting in a
collective at every batch as DDP does, so that a rank with fewer batches hangs. Rank 0 checks what
they have read together.
"""

from __future__ import annotations

import sys
from datetime import timedelta
from itertools import chain
from pathlib import Path

import torch
import torch.distributed as dist

from datamodules.decoding.transforms import EvalTransform, TrainTransform
from datamodules.loading.batches import Batches
from datamodules.loading.loader import EvalLoader, TrainLoader
from datamodules.shards.manifest import Manifest

RANKS = 4
ALL = [(ranks, workers) for ranks in (1, 2, 3, 4) for workers in (0, 1, 2, 3)]
FEW = [(1, 0), (2, 1), (3, 1)]  # a worker takes seconds to start, or may hang
GLOBAL_BATCH = 12
OPEN: list[TrainLoader | EvalLoader] = []


def read(loader: TrainLoader | EvalLoader, group: dist.ProcessGroup, ranks: int) -> list[list]:
    """The batches of all ranks, side by side: for each step and rank, the ids with a sum of their pixels."""
    steps = []
    for images, labels, sample_ids in loader:
        meeting = torch.ones(1)
        dist.all_reduce(meeting, group=group)
        assert meeting.item() == ranks
        sums = images.double().sum(dim=(1, 2, 3)).tolist()
        steps.append(list(zip(sample_ids.tolist(), labels.tolist(), sums, strict=True)))
    assert len(steps) == len(loader)
    OPEN.append(loader)
    of_all: list = [None] * ranks
    dist.all_gather_object(of_all, steps, group=group)
    assert len({len(part) for part in of_all}) == 1
    return [sorted(chain.from_iterable(parts)) for parts in zip(*of_all, strict=True)]


def close() -> None:
    """Not while others fork: their workers would copy the locks of the threads that end here."""
    while OPEN:
        OPEN.pop().close()


def main(rank: int, folder: Path, start_method: str) -> None:
    dist.init_process_group(
        "gloo",
        init_method=f"file://{folder}/meeting-{start_method}",
        rank=rank,
        world_size=RANKS,
        timeout=timedelta(seconds=120),
    )
    groups = {ranks: dist.new_group(list(range(ranks))) for ranks in range(1, RANKS + 1)}
    roots, ranks_and_workers = sorted(folder.glob("shards-*")), ALL
    if start_method != "forkserver":
        roots, ranks_and_workers = roots[4:5], FEW
    cases = 0
    for root in roots:
        manifest = Manifest.load(root)
        expected: list | None = None
        if start_method == "forkserver":
            close()
        for ranks, workers in ranks_and_workers:
            dist.barrier()
            if rank >= ranks:
                continue
            group = groups[ranks]
            who = {"rank": rank, "world_size": ranks, "workers": workers}
            if workers:
                who["start_method"] = start_method
            training = Batches(manifest, TrainTransform(12), seed=7)
            train = TrainLoader(training, GLOBAL_BATCH, streams=4, **who)
            batches = read(train, group, ranks)
            expected = expected or batches
            # The same global batches, pixels included, whatever the ranks and workers.
            assert batches == expected, (root.name, who)
            seen = [sample_id for batch in batches for sample_id, _, _ in batch]
            steps = manifest.num_samples // GLOBAL_BATCH
            assert len(batches) == len(train) == steps, (root.name, who)
            assert len(seen) == len(set(seen)) == steps * GLOBAL_BATCH, (root.name, who)

            validation = Batches(manifest, EvalTransform(12, 14))
            found = read(EvalLoader(validation, 7, **who), group, ranks)
            seen = sorted(sample_id for batch in found for sample_id, _, _ in batch)
            assert seen == list(range(manifest.num_samples)), (root.name, who)
            cases += 1
    dist.barrier()
    close()
    dist.destroy_process_group()
    if rank == 0:
        print(f"{cases} cases")


if __name__ == "__main__":
    main(int(sys.argv[1]), Path(sys.argv[2]), sys.argv[3])
