"""Writes a manifest of WebDataset shards, to train from them where they are.

examples:
  python -m datamodules.pack index imagenet-1k-wds/ indexed/
  python -m datamodules.pack index 'https://host/train-{000..639}.tar' indexed/

Reads each shard once, for its hash and the position and CRC-32 of each image.
Nothing is copied, shuffled or decoded (verify decodes). The shards must stay
as they are, and training mixes only as well as their order allows. After an
interruption, the same command starts over.
"""

from __future__ import annotations

import hashlib
import itertools
import time
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from datamodules.common.pool import Pool, advance
from datamodules.common.progress import progress
from datamodules.pack.job import JOB, Packed, report_skipped
from datamodules.pack.options import IndexOptions
from datamodules.pack.packing import (
    check_classes,
    classes_of_other_split,
    console,
    tell,
    tell_next_step,
)
from datamodules.pack.sources.listing import Problem, printable
from datamodules.pack.sources.locations import local_copy, path_in, shards_by_split
from datamodules.pack.sources.scan import Scan, key_and_suffix, scan
from datamodules.pack.sources.wds import decide_classes
from datamodules.remote.urls import is_remote, redacted
from datamodules.shards.entries import Shard, sample_dtype
from datamodules.shards.manifest import MANIFEST, Manifest

_BLOCK = 1 << 20  # bytes read at a time


def run(options: IndexOptions) -> None:
    """Run the command."""
    shards = shards_by_split(options.src, options.split)
    for split, locations in shards.items():
        _check_folder(options.out / split, locations)
    known = classes_of_other_split(options.out, shards)
    parts: dict[str, list[_Part]] = {}
    seconds = {}
    with Pool(options.workers) as pool:
        for split, locations in shards.items():
            started = time.monotonic()
            tasks = list(zip(_unique_names(locations), locations, strict=True))
            with progress(console, split, None) as update:
                parts[split] = pool.run(_read, tasks, update)
            seconds[split] = time.monotonic() - started
    scans = {split: [part.scan for part in own] for split, own in parts.items()}
    classes, class_names = decide_classes(scans, options.class_names, known)
    check_classes(options.out, shards, classes)
    skipped: dict[str, tuple[Problem, ...]] = {}
    for split, own in parts.items():  # all splits, before the first one is complete
        skipped[split] = tuple(problem for part in own for problem in part.scan.problems)
        total = len(skipped[split]) + sum(part.shard.samples for part in own)
        remedy = "Repair them, or leave their shards out"
        report_skipped(options.out / split, skipped[split], total, remedy)
    for split, own in parts.items():
        pairs = [(part.shard, part.rows) for part in own]
        manifest = Manifest.assemble(options.out / split, classes, class_names, pairs)
        manifest.save()
        tell(split, Packed(manifest, skipped[split], manifest.num_samples, 0, seconds[split]))
    tell_next_step(options.out)


@dataclass(frozen=True)
class _Part:
    """A shard that was read; `rows` are its part of the manifest's index."""

    scan: Scan
    shard: Shard
    rows: np.ndarray


def _check_folder(folder: Path, locations: list[str]) -> None:
    """Refuse a folder that holds anything but an index of the same shards."""
    if (folder / JOB).exists() or any(folder.glob("[!.]*.tar")):
        raise ValueError(f"{folder} has shards in it, and an index has none; choose another OUT")
    if (folder / MANIFEST).exists():
        try:
            existing = Manifest.load(folder, allow_pipe=True)
        except ValueError as error:
            raise ValueError(f"{error}, after deleting {folder}") from None
        if [shard.url for shard in existing.shards] != locations:
            raise ValueError(
                f"{folder} holds an index of other shards, or of these in another order; "
                f"choose another OUT, or delete {folder}"
            )


def _unique_names(locations: Sequence[str]) -> list[str]:
    """File names for the manifest: `0000.tar`, and `2-0000.tar` for one of another folder."""
    names: dict[str, None] = {}
    for number, location in enumerate(locations):
        name = printable(path_in(location).name).replace("\\", "_") or f"source-{number:06d}"
        more = (f"{copy}-{name}" for copy in itertools.count(2))
        names[next(each for each in itertools.chain([name], more) if each not in names)] = None
    return list(names)


def _read(task: tuple[str, str]) -> _Part:
    """Read one shard, in a worker."""
    name, location = task
    with local_copy(location) as path:
        try:
            found = scan(path, name)
        except ValueError as error:
            if not is_remote(location):
                raise
            raise ValueError(str(error).replace(str(path), redacted(location))) from None
        length, sha256, checksums = _checksums(path, found.rows)
    keys = [_key(row) for row in found.rows]
    rows = np.empty(len(keys), sample_dtype(max(map(len, keys), default=1)))
    for column in ("offset", "size", "label"):
        rows[column] = found.rows[column]
    rows["crc32"], rows["key"] = checksums, keys
    return _Part(found, Shard(name, len(rows), length, sha256, location), rows)


def _key(row: np.void) -> bytes:
    """The key as webdataset would give it, but printable, because it appears in logs."""
    key, _ = key_and_suffix(row["name"].decode("utf-8", "surrogateescape"))
    return printable(key).encode("utf-8")


def _checksums(path: Path, images: np.ndarray) -> tuple[int, str, list[int]]:
    """Read a shard once: its length in bytes, its sha256, and the CRC-32 of each image."""
    digest = hashlib.sha256()
    checksums = []
    with open(path, "rb") as file:

        def hashed(until: int) -> Iterator[bytes]:
            while block := file.read(min(_BLOCK, until - file.tell())):
                digest.update(block)
                yield block
                advance(0)  # raises if the worker must stop

        for image in images:
            begin = int(image["offset"])
            for _ in hashed(begin):
                pass
            checksum = 0
            for block in hashed(begin + int(image["size"])):
                checksum = zlib.crc32(block, checksum)
            checksums.append(checksum)
        for _ in hashed(path.stat().st_size):
            pass
        return file.tell(), digest.hexdigest(), checksums
