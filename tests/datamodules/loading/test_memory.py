"""Memory does not grow over epochs, in the workers and in the training process."""

from __future__ import annotations

import gc
import os
import re
from pathlib import Path

import pytest
import torch

from datamodules.decoding.transforms import TrainTransform
from datamodules.loading.batches import Batches
from datamodules.loading.loader import TrainLoader
from datamodules.shards.manifest import Manifest

WARM_UP, EPOCHS = 25, 60


def private_megabytes(pid: int) -> float:
    """Memory that would be free if the process ended: without code and shared pages."""
    rollup = Path(f"/proc/{pid}/smaps_rollup").read_text()
    return sum(map(int, re.findall(r"^Private_\w+:\s+(\d+) kB", rollup, re.MULTILINE))) / 1024


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
