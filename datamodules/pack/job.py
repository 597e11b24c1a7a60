"""Pack one split: shuffle, cut into shards, write them in parallel, remember what is done.

``OUT/train/pack.json`` says what the job is, ``.partial/`` has a file for each finished shard until
the manifest is written. The same command goes on with the shards that are missing; another input
or other options never mix with what is there.
"""

from __future__ import annotations

import hashlib
import itertools
import json
import os
import shutil
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from datamodules.common.pool import Workers, advance
from datamodules.decoding.images import UnreadableImage
from datamodules.pack.images import ImageOptions, to_rgb_jpeg
from datamodules.pack.listing import Listing, Problem, Source
from datamodules.shards.manifest import (
    INDEX,
    MANIFEST,
    SAMPLE_DTYPE,
    VERSION,
    Manifest,
    Shard,
    sha256_of,
)
from datamodules.shards.writer import shard_name, write_shard

JOB = "pack.json"
PARTIAL = ".partial"
SKIPPED = "skipped.tsv"
MAX_SKIPPED = 0.001
"""The share of a split that may be unreadable."""


@dataclass(frozen=True)
class Options:
    """What decides, beside the input, the bytes that are written."""

    samples_per_shard: int = 1000
    seed: int = 0
    images: ImageOptions = field(default_factory=ImageOptions)


@dataclass(frozen=True)
class Packed:
    """What became of a split."""

    manifest: Manifest
    skipped: tuple[Problem, ...]
    written: int
    reused_shards: int
    seconds: float


@dataclass(frozen=True)
class _Task:
    path: Path
    fingerprint: str
    source: Source
    entries: np.ndarray
    images: ImageOptions


@dataclass(frozen=True)
class _Part:
    """A finished shard; ``shard`` is None where no image of it could be read."""

    shard: Shard | None
    rows: np.ndarray
    skipped: tuple[Problem, ...] = ()
    reused: bool = False


class Job:
    """The packing of one listing into one folder."""

    def __init__(self, listing: Listing, folder: Path, options: Options) -> None:
        self.listing, self.folder, self.options = listing, folder, options
        input_hash = listing.fingerprint()
        self._record: dict[str, Any] = {"format": VERSION, "input": input_hash, **asdict(options)}
        self._fingerprint = hashlib.sha256(json.dumps(self._record).encode()).hexdigest()

    def check(self) -> None:
        """Refuse a folder that holds anything but (a part of) this very job."""
        folder = self.folder
        try:
            record = json.loads((folder / JOB).read_text(encoding="utf-8"))
        except FileNotFoundError:
            if any((folder / name).exists() for name in (MANIFEST, INDEX, shard_name(0))):
                raise ValueError(
                    f"{folder} already has shards that pack did not write; choose another OUT"
                ) from None
            return
        except ValueError as error:
            raise ValueError(f"{folder / JOB} is damaged ({error}); delete {folder}") from None
        if record != self._record:
            raise ValueError(
                f"{folder} holds a pack of {_difference(record, self._record)}; "
                f"give the same input and options again, choose another OUT, or delete {folder}"
            )

    def finished(self) -> Packed | None:
        """Return what an earlier run has finished, if it did."""
        if not (self.folder / MANIFEST).exists():
            return None
        manifest = Manifest.load(self.folder)
        return Packed(manifest, _read_skipped(self.folder), 0, len(manifest.shards), 0.0)

    def run(self, workers: Workers, progress: Callable[[int], Any]) -> Packed:
        """Write the shards that are missing, then the manifest.

        Raises:
            ValueError: More than ``MAX_SKIPPED`` of the images are unreadable.
            OSError: The output cannot be written; finished shards stay, nothing is half-written.
        """
        started = time.monotonic()
        partial = self.folder / PARTIAL
        partial.mkdir(parents=True, exist_ok=True)
        _write_text(self.folder / JOB, json.dumps(self._record, indent=1) + "\n")
        tasks = self._tasks()
        parts: list[_Part | None] = [None] * len(tasks)
        for position, part in workers.run(_write, tasks, progress):
            parts[position] = part
        done = [part for part in parts if part is not None]
        skipped = sorted(itertools.chain(self.listing.problems, *(p.skipped for p in done)))
        total = len(self.listing.entries) + len(self.listing.problems)
        remedy = f"Repair or remove them, delete {self.folder} and pack again"
        report_skipped(self.folder, skipped, total, remedy)
        shards = [(part.shard, part.rows) for part in done if part.shard is not None]
        classes, names = self.listing.classes, self.listing.class_names
        manifest = Manifest.assemble(self.folder, classes, names, shards)
        manifest.save()
        shutil.rmtree(partial)
        for leftover in self.folder.glob(".*.tmp"):  # of a run that was killed
            leftover.unlink(missing_ok=True)
        reused = [part for part in done if part.reused]
        written = manifest.num_samples - sum(len(part.rows) for part in reused)
        seconds = time.monotonic() - started
        return Packed(manifest, tuple(skipped), written, len(reused), seconds)

    def _tasks(self) -> list[_Task]:
        order = self.listing.order(self.options.seed)
        total = len(order)
        count = -(-total // self.options.samples_per_shard)
        # Shards of equal length, give or take one, rather than a last one that is nearly empty.
        bounds = [total * at // count for at in range(count + 1)]
        return [
            _Task(
                path=self.folder / shard_name(at),
                fingerprint=self._fingerprint,
                source=self.listing.source,
                entries=self.listing.entries[order[bounds[at] : bounds[at + 1]]],
                images=self.options.images,
            )
            for at in range(count)
        ]


def report_skipped(folder: Path, skipped: Sequence[Problem], total: int, remedy: str) -> None:
    """Write the list of what is left out, if anything is.

    Args:
        folder: Of the split.
        skipped: What is left out.
        total: How many there are with them.
        remedy: What to do if they are too many.

    Raises:
        ValueError: They are more than ``MAX_SKIPPED`` of all.
    """
    path = folder / SKIPPED
    if not skipped:
        path.unlink(missing_ok=True)
        return
    folder.mkdir(parents=True, exist_ok=True)
    _write_text(path, "".join(f"{name}\t{reason}\n" for name, reason in skipped))
    if len(skipped) > MAX_SKIPPED * total:
        raise ValueError(
            f"{len(skipped):,} of the {total:,} images of {folder.name} are unreadable, more than "
            f"{MAX_SKIPPED:.1%}; the first is {skipped[0][0]} ({skipped[0][1]}), all are in {path}. "
            + remedy
        )


def _write(task: _Task) -> _Part:
    """Write one shard, in a worker, unless it is there already."""
    finished = _reuse(task)
    if finished is not None:
        advance(len(task.entries))
        return finished
    skipped: list[Problem] = []
    samples = _samples(task, skipped)
    first = next(samples, None)
    if first is None:
        return _Part(None, np.empty(0, SAMPLE_DTYPE(1)), tuple(skipped))
    shard, rows = write_shard(task.path, itertools.chain([first], samples))
    if not skipped:  # one that lacks images is tried again by the next run
        columns = [rows[name].tolist() for name in ("offset", "size", "crc32", "label")]
        state = {
            "fingerprint": task.fingerprint,
            "shard": asdict(shard),
            "rows": [*columns, [key.decode("utf-8") for key in rows["key"]]],
        }
        _write_text(_state_path(task), json.dumps(state))
    return _Part(shard, rows, tuple(skipped))


def _samples(task: _Task, skipped: list[Problem]) -> Iterator[tuple[str, bytes, int]]:
    for entry in task.entries:
        try:
            data = task.source.read(entry)
            if len(data) < entry["size"]:
                raise UnreadableImage(f"the file ends after {len(data)} of {entry['size']} bytes")
            image = to_rgb_jpeg(data, task.images)
        except (UnreadableImage, OSError) as error:
            reason = error.strerror if isinstance(error, OSError) else str(error)
            skipped.append((task.source.describe(entry), reason or type(error).__name__))
        else:
            yield entry["key"].decode("utf-8"), image, int(entry["label"])
        advance()


def _reuse(task: _Task) -> _Part | None:
    """Return the shard an earlier run wrote, if it is of this job and its bytes are unchanged."""
    try:
        state = json.loads(_state_path(task).read_text(encoding="utf-8"))
        if state["fingerprint"] != task.fingerprint:
            return None
        shard = Shard(**state["shard"])
        *columns, keys = state["rows"]
        if sha256_of(task.path) != shard.sha256:
            return None
    except (OSError, ValueError, KeyError, TypeError):
        return None
    encoded = [key.encode("utf-8") for key in keys]
    rows = np.array(
        list(zip(*columns, encoded, strict=True)), dtype=SAMPLE_DTYPE(max(map(len, encoded)))
    )
    return _Part(shard, rows, reused=True)


def _state_path(task: _Task) -> Path:
    return task.path.parent / PARTIAL / f"{task.path.stem}.json"


def _write_text(path: Path, text: str) -> None:
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        temporary.write_text(text, encoding="utf-8", errors="backslashreplace")
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def _read_skipped(folder: Path) -> tuple[Problem, ...]:
    path = folder / SKIPPED
    if not path.exists():
        return ()
    lines = path.read_text(encoding="utf-8").splitlines()
    return tuple((name, reason) for name, _, reason in (line.partition("\t") for line in lines))


def _difference(old: dict[str, Any], new: dict[str, Any]) -> str:
    """Say in words what distinguishes the job in the folder from the one that is wanted."""
    if old.get("format") != new["format"]:
        return "an older format"
    old, new = ({**job, **job.get("images", {})} for job in (old, new))
    for name in ("samples_per_shard", "seed", "resize", "quality"):
        if old.get(name) != new.get(name):
            flag = name.replace("_", "-")
            return f"other options (--{flag} was {old.get(name)} and is now {new.get(name)})"
    return "another input (a file was added, removed or changed)"
