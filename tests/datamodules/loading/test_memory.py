"""Memory does not grow over epochs, nor that of a worker with the number of shards."""

from __future__ import annotations

import gc
import os
import re
from pathlib import Path

import numpy as np
import pytest
import torch

from datamodules.decoding.augmentation import TrainTransform
from datamodules.loading.batches import Batches
from datamodules.loading.loader import TrainLoader
from datamodules.shards.entries import Shard, Shards, sample_dtype
from datamodules.shards.manifest import Manifest

WARM_UP, EPOCHS = 25, 60


def private_megabytes(pid: int, kind: str = r"\w+") -> float:
    """Memory that would be free if the process ended: without code and shared pages."""
    rollup = Path(f"/proc/{pid}/smaps_rollup").read_text()
    return sum(map(int, re.findall(rf"^Private_{kind}:\s+(\d+) kB", rollup, re.MULTILINE))) / 1024


@pytest.mark.slow
def test_memory_does_not_grow_over_epochs(shards, tmp_path):
    manifest = Manifest.load(shards / "train")
    loader = TrainLoader(
        Batches(manifest, TrainTransform(96)), 15, workers=2, streams=4, audit_dir=tmp_path
    )
    sizes = []
    for _ in range(EPOCHS):
        for images, _, _ in loader:
            assert images.shape == (15, 3, 96, 96)
        del images
        gc.collect()
        processes = [
            os.getpid(),
            *(worker.pid for worker in torch.multiprocessing.active_children()),
        ]
        assert len(processes) == 3
        sizes.append([private_megabytes(pid) for pid in processes])
    loader.close()
    # The first epochs fill the allocator's pools, up to about 36 MB. After them, keeping a batch of
    # 400 kB in each epoch would add 14 MB.
    growth = [last - first for first, last in zip(sizes[WARM_UP], sizes[-1], strict=True)]
    assert max(growth) < 5.0, sizes


def worker_megabytes(folder: Path, shards: int) -> float:
    """Private memory of a worker that has read a batch. The shards are missing: it is grey."""
    entries = Shards.of(Shard(f"s{i}.tar", 1, 10**8, f"{i:064d}") for i in range(shards))
    Manifest(folder, ("a",), ("a",), entries, np.zeros(shards, sample_dtype(8))).save()
    loader = TrainLoader(Batches(Manifest.load(folder), TrainTransform(32)), 64, workers=1)
    next(iter(loader))
    (worker,) = torch.multiprocessing.active_children()
    size = private_megabytes(worker.pid, "Dirty")  # clean pages are those of the mapped index
    loader.close()
    return size


@pytest.mark.parametrize("shards", [100_000, pytest.param(1_000_000, marks=pytest.mark.slow)])
def test_workers_share_the_list_of_shards(tmp_path, shards):
    # As objects in each worker, it took 0.6 kB a shard.
    extra = worker_megabytes(tmp_path / "many", shards) - worker_megabytes(tmp_path / "few", 1000)
    assert extra < 8.0
