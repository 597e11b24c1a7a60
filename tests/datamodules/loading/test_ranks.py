"""Real processes: 1 to 4 gloo ranks, 0 to 3 workers each, 1, 4 or 7 uneven shards."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from tests.datamodules.loaders import write_data

REPOSITORY = Path(__file__).parents[3]
SAMPLES = 61  # a prime: no number of ranks, workers or shards divides it


@pytest.mark.slow
def test_ranks_together_read_every_sample_once_and_the_same_batches(tmp_path):
    for shards in (1, 4, 7):  # the same images; the first shard has a single one
        draw = np.random.default_rng(shards)
        cuts = sorted({1, *draw.choice(np.arange(2, SAMPLES), shards, replace=False).tolist()})
        counts = np.diff([0, *cuts[: shards - 1], SAMPLES]).tolist()
        write_data(tmp_path / f"shards-{shards}", counts)
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY), "OMP_NUM_THREADS": "1"}
    script = str(Path(__file__).parent / "ranks.py")
    ranks = [
        subprocess.Popen(
            [sys.executable, script, str(rank), str(tmp_path)],
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in range(4)
    ]
    output = [rank.communicate(timeout=900) for rank in ranks]
    assert [rank.returncode for rank in ranks] == [0] * 4, "\n".join(err for _, err in output)
    assert output[0][0] == f"{3 * 4 * 4} cases\n"
