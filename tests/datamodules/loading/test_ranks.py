"""Real processes: 1 to 4 gloo ranks, 0 to 3 workers each, 1 to 7 uneven shards, every start method."""

from __future__ import annotations

import io
import itertools
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from datamodules.shards.manifest import Manifest
from datamodules.shards.writer import shard_name, write_shard

REPOSITORY = Path(__file__).parents[3]
SAMPLES = 61  # a prime: no number of ranks, workers or shards divides it


def jpeg(number):
    pixels = np.random.default_rng(number).integers(0, 256, (16, 18, 3), dtype=np.uint8)
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "JPEG")
    return file.getvalue()


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """shards-1 to shards-7: the same images in so many shards, one of them with a single image."""
    folder = tmp_path_factory.mktemp("data")
    images = [(f"key{i}", jpeg(i), i % 4) for i in range(SAMPLES)]
    for shards in range(1, 8):
        (folder / f"shards-{shards}").mkdir()
        draw = np.random.default_rng(shards)
        cuts = [0, *sorted({1, *draw.choice(np.arange(2, SAMPLES), shards, replace=False)})]
        cuts = [*cuts[:shards], SAMPLES]
        parts = [
            write_shard(folder / f"shards-{shards}" / shard_name(at), images[begin:end])
            for at, (begin, end) in enumerate(itertools.pairwise(cuts))
        ]
        Manifest.assemble(folder / f"shards-{shards}", "abcd", "abcd", parts).save()
    return folder


@pytest.mark.parametrize(
    ("start_method", "cases"), [("forkserver", 7 * 4 * 4), ("fork", 3), ("spawn", 3)]
)
def test_ranks_together_read_every_sample_once_and_the_same_batches(folder, start_method, cases):
    counts = [len(Manifest.load(path).shards) for path in sorted(folder.glob("shards-*"))]
    assert counts == [1, 2, 3, 4, 5, 6, 7]
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY), "OMP_NUM_THREADS": "1"}
    script = str(Path(__file__).parent / "ranks.py")
    ranks = [
        subprocess.Popen(
            [sys.executable, script, str(rank), str(folder), start_method],
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in range(4)
    ]
    said = [rank.communicate(timeout=900) for rank in ranks]
    assert [rank.returncode for rank in ranks] == [0] * 4, "\n".join(err for _, err in said)
    assert said[0][0] == f"{cases} cases\n"
