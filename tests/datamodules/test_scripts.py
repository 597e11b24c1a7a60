"""Scripts of users: what happens without a guard around their code."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).parents[2]
SCRIPT = """\
from datamodules import ImageNetDataModule

data = ImageNetDataModule({root!r}, batch_size=8, workers=2, image_size=24, resize_size=24)
for images, labels, ids in data.train_dataloader():
    pass
"""


@pytest.mark.slow
def test_a_script_without_a_guard_is_told_about_it_once(shards, tmp_path):
    script = tmp_path / "script.py"
    script.write_text(SCRIPT.format(root=str(shards)))
    environment = {"PYTHONPATH": str(REPOSITORY), "OMP_NUM_THREADS": "1", "PATH": ""}
    done = subprocess.run(
        [sys.executable, str(script)], env=environment, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 1
    assert done.stderr.count("Traceback") == 1
    *_, last = done.stderr.splitlines()
    assert last.startswith("ValueError: the processes that read ended before their first batch")
    assert 'if __name__ == "__main__":' in last
