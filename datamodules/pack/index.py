"""Train from WebDataset shards where they are: a manifest of shards that others wrote.

Each shard is read once, for its hash, and for the place and the CRC-32 of each image. Nothing is
decoded, shuffled or copied. So the manifest is small and quick to make, but the shards must stay as
they are, and a plan can only mix as well as their order allows.
"""

from __future__ import annotations

import hashlib
import itertools
import time
import zlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from datamodules.common.pool import Workers, advance
from datamodules.pack.expand import local_copy, path_in
from datamodules.pack.job import JOB, Packed, report_skipped
from datamodules.pack.listing import Problem, printable
from datamodules.pack.wds import Scan, key_and_suffix, scan
from datamodules.remote.urls import is_remote, name_for_people
from datamodules.shards.manifest import MANIFEST, SAMPLE_DTYPE, Manifest, Shard

_BLOCK = 1 << 20  # bytes read at a time


@dataclass(frozen=True)
class _Part:
    """A shard that was read; ``rows`` are its part of the manifest's index."""

    scan: Scan
    shard: Shard
    rows: np.ndarray


class Index:
    """The index of one split, to be written into one folder.

    Args:
        split: ``train`` or ``val``.
        locations: Of the shards, as ``shards_by_split`` finds them.
        folder: For the manifest.

    Raises:
        ValueError: The folder holds anything but an index of these very shards.
    """

    def __init__(self, split: str, locations: Sequence[str], folder: Path) -> None:
        self.split, self.folder = split, folder
        self._locations = list(locations)
        self._parts: list[_Part] = []
        self._seconds = 0.0
        if (folder / JOB).exists() or any(folder.glob("*.tar")):
            raise ValueError(
                f"{folder} has shards in it, and an index has none; choose another OUT"
            )
        if (folder / MANIFEST).exists():
            try:
                there = Manifest.load(folder, allow_pipe=True)
            except ValueError as error:
                raise ValueError(f"{error}, after deleting {folder}") from None
            if [shard.url for shard in there.shards] != self._locations:
                raise ValueError(
                    f"{folder} holds an index of other shards, or of these in another order; "
                    f"choose another OUT, or delete {folder}"
                )

    def read(self, workers: Workers, progress: Callable[[int], Any]) -> list[Scan]:
        """Read all shards.

        Raises:
            ValueError: One is no complete, uncompressed tar file.
            SourceError: One cannot be read.
        """
        started = time.monotonic()
        tasks = list(zip(_unique_names(self._locations), self._locations, strict=True))
        parts = dict(workers.run(_read, tasks, progress))
        self._parts = [parts[at] for at in range(len(tasks))]
        self._seconds = time.monotonic() - started
        return [part.scan for part in self._parts]

    def report(self) -> None:
        """Write the list of samples that cannot be used.

        Raises:
            ValueError: They are more than ``MAX_SKIPPED`` of all.
        """
        total = len(self._skipped) + sum(part.shard.samples for part in self._parts)
        report_skipped(self.folder, self._skipped, total, "Repair them, or leave their shards out")

    def save(self, classes: Sequence[str], class_names: Sequence[str]) -> Packed:
        """Write the manifest."""
        parts = [(part.shard, part.rows) for part in self._parts]
        manifest = Manifest.assemble(self.folder, classes, class_names, parts)
        manifest.save()
        return Packed(manifest, self._skipped, manifest.num_samples, 0, self._seconds)

    @property
    def _skipped(self) -> tuple[Problem, ...]:
        return tuple(problem for part in self._parts for problem in part.scan.problems)


def _unique_names(locations: Sequence[str]) -> list[str]:
    """File names for the manifest: ``0000.tar``, ``2-0000.tar`` of another folder."""
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
            message = str(error).replace(str(path), name_for_people(location))
            raise ValueError(message) from None
        length, sha256, checksums = _checksums(path, found.rows)
    keys = [_key(row) for row in found.rows]
    rows = np.empty(len(keys), SAMPLE_DTYPE(max(map(len, keys), default=1)))
    for column in ("offset", "size", "label"):
        rows[column] = found.rows[column]
    rows["crc32"], rows["key"] = checksums, keys
    return _Part(found, Shard(name, len(rows), length, sha256, location), rows)


def _key(row: np.void) -> bytes:
    """The key as webdataset would give it; odd characters escaped, as it is meant for logs too."""
    key, _ = key_and_suffix(row["name"].decode("utf-8", "surrogateescape"))
    return printable(key).encode("utf-8")


def _checksums(path: Path, images: np.ndarray) -> tuple[int, str, list[int]]:
    """Length in bytes and sha256 of a shard, and the CRC-32 of its images, in one reading."""
    digest = hashlib.sha256()
    checksums = []
    with open(path, "rb") as file:

        def hashed(until: int) -> Iterator[bytes]:
            while block := file.read(min(_BLOCK, until - file.tell())):
                digest.update(block)
                yield block
                advance(0)  # the user may want to stop

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
