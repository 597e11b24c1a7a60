"""One of four real processes that read datasets together: `python ranks.py RANK FOLDER`.

For every number of ranks, workers and shards, the ranks read a training epoch and a validation. As
in DDP, they meet in a collective operation at every batch, so a rank with fewer batches would hang.
Every rank checks what all of them have read.
"""

from __future__ import annotations

import itertools
import sys
from datetime import timedelta
from pathlib import Path

import torch
import torch.distributed as dist

from datamodules.decoding.augmentation import TrainTransform
from datamodules.decoding.transforms import EvalTransform
from datamodules.loading.batches import Batches
from datamodules.loading.loader import EvalLoader, TrainLoader
from datamodules.shards.manifest import Manifest

RANKS = 4
GLOBAL_BATCH = 12


def read(loader: TrainLoader | EvalLoader, group: dist.ProcessGroup, ranks: int) -> list[list]:
    """For each step, (id, label, sum of the pixels) of the samples of all ranks, by their id."""
    steps = []
    for images, labels, sample_ids in loader:
        meeting = torch.ones(1)
        dist.all_reduce(meeting, group=group)
        assert meeting.item() == ranks
        sums = images.double().sum(dim=(1, 2, 3)).tolist()
        steps.append(list(zip(sample_ids.tolist(), labels.tolist(), sums, strict=True)))
    assert len(steps) == len(loader)
    loader.close()
    of_all: list = [None] * ranks
    dist.all_gather_object(of_all, steps, group=group)
    assert len({len(part) for part in of_all}) == 1
    return [sorted(itertools.chain.from_iterable(p)) for p in zip(*of_all, strict=True)]


def main(rank: int, folder: Path) -> None:
    dist.init_process_group(
        "gloo",
        init_method=f"file://{folder}/meeting",
        rank=rank,
        world_size=RANKS,
        timeout=timedelta(seconds=120),
    )
    groups = {ranks: dist.new_group(list(range(ranks))) for ranks in range(1, RANKS + 1)}
    cases = 0
    for root in sorted(folder.glob("shards-*")):
        manifest = Manifest.load(root)
        expected: list | None = None
        for ranks, workers in itertools.product(range(1, RANKS + 1), range(4)):
            dist.barrier()
            if rank >= ranks:
                continue
            who = {"rank": rank, "world_size": ranks, "workers": workers}
            training = Batches(manifest, TrainTransform(12), seed=7)
            train = TrainLoader(training, GLOBAL_BATCH, streams=4, **who)
            batches = read(train, groups[ranks], ranks)
            expected = expected or batches
            # The same global batches, including the pixels, for any ranks and workers.
            assert batches == expected, (root.name, who)
            seen = [sample_id for batch in batches for sample_id, _, _ in batch]
            steps = manifest.num_samples // GLOBAL_BATCH
            assert len(batches) == len(train) == steps, (root.name, who)
            assert len(seen) == len(set(seen)) == steps * GLOBAL_BATCH, (root.name, who)

            validation = Batches(manifest, EvalTransform(12, 14))
            found = read(EvalLoader(validation, 7, **who), groups[ranks], ranks)
            seen = sorted(sample_id for batch in found for sample_id, _, _ in batch)
            assert seen == list(range(manifest.num_samples)), (root.name, who)
            cases += 1
    dist.barrier()
    dist.destroy_process_group()
    if rank == 0:
        print(f"{cases} cases")


if __name__ == "__main__":
    main(int(sys.argv[1]), Path(sys.argv[2]))
