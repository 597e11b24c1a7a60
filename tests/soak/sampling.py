"""What a program holds: memory, open files, threads, processes, shared memory, files on disk."""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import re
import statistics
import subprocess
import tempfile
from collections.abc import Sequence
from pathlib import Path

from pytorch_lightning import Callback, LightningModule, Trainer

SHARED_MEMORY = Path("/dev/shm")
BOUNDS = {
    "memory in MB": 16.0,
    "open files": 1.0,
    "threads": 1.0,
    "processes": 1.0,
    "entries of /dev/shm": 1.0,
    "temporary files": 1.0,
    "files of the run": 3.0,
}
"""What is sampled, and by how much it may grow along a robust line through all samples."""
_NEW_MOUNTS = 0x00020000  # unshare's CLONE_NEWNS


class Sampler(Callback):
    """Samples the training's processes at the beginning of each epoch.

    Args:
        out: Gets a line of JSON for each sample.
        folder: The run's files are there.
    """

    def __init__(self, out: str, folder: str) -> None:
        self.out, self.folder = Path(out), Path(folder)

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        with self.out.open("a") as file:
            file.write(json.dumps(sample(self.folder)) + "\n")


def sample(folder: Path) -> dict[str, float]:
    """What all processes of this session hold now."""
    found = dict.fromkeys(BOUNDS, 0.0)
    for process in _processes():
        with contextlib.suppress(OSError):  # it ends just now
            rollup = (process / "smaps_rollup").read_text()
            private = re.findall(r"^Private_(?:Clean|Dirty):\s+(\d+)", rollup, re.MULTILINE)
            found["memory in MB"] += sum(map(int, private)) / 1000
            found["open files"] += len(list((process / "fd").iterdir()))
            found["threads"] += len(list((process / "task").iterdir()))
            found["processes"] += 1
    found["entries of /dev/shm"] = len(list(SHARED_MEMORY.iterdir()))
    found["temporary files"] = len(list(Path(tempfile.gettempdir()).rglob("*")))
    found["files of the run"] = len(list(folder.rglob("*")))
    return found


def growth(samples: Sequence[dict[str, float]]) -> dict[str, float]:
    """How much each figure has grown from the first sample to the last, along a robust line.

    The line's slope is the median of the slopes between all pairs of samples (Theil and Sen), so
    that single samples do not matter.
    """
    assert len(samples) >= 5, "too few samples"
    pairs = [(a, b) for a in range(len(samples)) for b in range(a + 1, len(samples))]
    return {
        name: statistics.median((samples[b][name] - samples[a][name]) / (b - a) for a, b in pairs)
        * (len(samples) - 1)
        for name in BOUNDS
    }


def own_places() -> None:
    """Give this process and those that it starts a /dev/shm of their own, if it may do so.

    Its temporary folder is that of $TMPDIR, whatever that of the server was which it comes from.
    """
    tempfile.tempdir = None
    if ctypes.CDLL(None).unshare(_NEW_MOUNTS) == 0:
        for words in (("--make-rprivate", "/"), ("-t", "tmpfs", "tmpfs", SHARED_MEMORY)):
            subprocess.run(("mount", *map(str, words)), check=True, capture_output=True)


def _processes() -> list[Path]:
    """Those of this session, as in /proc."""
    session = os.getsid(0)
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            if os.getsid(int(process.name)) == session:
                found.append(process)
    return found
