"""Packs one shard, in a worker, unless an earlier run has finished it."""

from __future__ import annotations

import hashlib
import itertools
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from datamodules.common.errors import printable
from datamodules.common.files import write_text
from datamodules.common.texts import read_text
from datamodules.decoding.images import MAX_BYTES, UnreadableImage
from datamodules.pack.images import Quality, to_rgb_jpeg
from datamodules.pack.sources.listing import Problem, Source
from datamodules.processes.pool import advance
from datamodules.shards.entries import Shard
from datamodules.shards.manifest import sha256_of
from datamodules.shards.writer import index_rows, write_shard

PARTIAL = ".partial"
"""The folder with a file for each finished shard, until the manifest is written."""


@dataclass(frozen=True)
class Task:
    """A shard to write."""

    path: Path
    fingerprint: str
    source: Source
    entries: np.ndarray
    resize: int | None
    quality: Quality

    @property
    def state_path(self) -> Path:
        """The file that says the shard is finished."""
        return self.path.parent / PARTIAL / f"{self.path.stem}.json"


@dataclass(frozen=True)
class Part:
    """A finished shard; `shard` is None if none of its images could be read."""

    shard: Shard | None
    rows: np.ndarray
    skipped: tuple[Problem, ...] = ()
    encoded: int = 0  # images that were encoded again
    reused: bool = False


def write(task: Task) -> Part:
    """Write one shard, unless it is there already."""
    if (finished := _reuse(task)) is not None:
        advance(len(task.entries))
        return finished
    tally = _Tally([])
    samples = _samples(task, tally)
    first = next(samples, None)
    if first is None:
        return Part(None, index_rows([]), tuple(tally.skipped))
    shard, rows = write_shard(task.path, itertools.chain([first], samples))
    if not tally.skipped:  # the next run tries again to write a shard that lacks images
        state = {
            "fingerprint": task.fingerprint,
            "shard": shard._asdict(),
            "encoded": tally.encoded,
            "rows": [(*row[:-1], row[-1].decode("utf-8")) for row in rows.tolist()],
        }
        state["sha256"] = _digest(state)
        write_text(json.dumps(state), task.state_path)
    return Part(shard, rows, tuple(tally.skipped), tally.encoded)


@dataclass
class _Tally:
    """What became of the images of a shard."""

    skipped: list[Problem]
    encoded: int = 0


def _samples(task: Task, tally: _Tally) -> Iterator[tuple[str, bytes, int]]:
    for entry in task.entries:
        try:
            if entry["size"] > MAX_BYTES:
                raise UnreadableImage(f"{entry['size']:,} bytes, more than {MAX_BYTES:,}")
            data = task.source.read(entry)
            if len(data) < entry["size"]:
                raise UnreadableImage(f"the file ends after {len(data)} of {entry['size']} bytes")
            image = to_rgb_jpeg(data, task.resize, task.quality)
        except (UnreadableImage, OSError) as error:
            reason = (error.strerror if isinstance(error, OSError) else None) or str(error)
            tally.skipped.append((task.source.describe(entry), printable(reason)))
        else:
            tally.encoded += image is not data
            yield entry["key"].decode("utf-8"), image, int(entry["label"])
        advance()


def _reuse(task: Task) -> Part | None:
    """Return the shard an earlier run wrote, if it is of this job and its bytes are unchanged."""
    try:
        state = json.loads(read_text(task.state_path))
        if state.pop("sha256") != _digest(state) or state["fingerprint"] != task.fingerprint:
            return None
        shard = Shard(**state["shard"])
        if sha256_of(task.path) != shard.sha256:
            return None
        rows = index_rows([(*row, key.encode("utf-8")) for *row, key in state["rows"]])
        encoded = int(state["encoded"])
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return None  # no such state, or damaged
    return Part(shard, rows, encoded=encoded, reused=True)


def _digest(state: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(state).encode()).hexdigest()
