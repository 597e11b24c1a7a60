"""Writes a manifest of WebDataset shards, to train from them where they are.

examples:
  python -m datamodules.pack index imagenet-1k-wds/ indexed/
  python -m datamodules.pack index 'https://host/train-{000..639}.tar' indexed/

Reads the shards, for their hashes and the position and CRC-32 of each image.
Nothing is copied, shuffled or decoded (verify decodes). The shards must stay
as they are, and training mixes only as well as their order allows. After an
interruption, the same command starts over.
"""

from __future__ import annotations

import itertools
import time
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from datamodules.common.errors import printable
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
from datamodules.pack.sources.listing import Problem
from datamodules.pack.sources.locations import (
    is_compressed,
    local_copy,
    path_in,
    shards_by_split,
)
from datamodules.pack.sources.scan import Scan, key_and_suffix, scan
from datamodules.pack.sources.wds import decide_classes
from datamodules.processes.pool import Pool, advance
from datamodules.remote.urls import has_password, is_remote, redacted, scheme_of
from datamodules.shards.entries import Shard
from datamodules.shards.manifest import MANIFEST, Manifest, sha256_of
from datamodules.shards.writer import index_rows


def run(options: IndexOptions) -> None:
    """Run the command."""
    shards = shards_by_split(options.src, options.split)
    _check_secrets([location for locations in shards.values() for location in locations])
    for split, locations in shards.items():
        _check_folder(options.out / split, locations)
        if packed := next(filter(is_compressed, locations), None):
            raise ValueError(
                f"{redacted(packed)} is compressed, so single images cannot be read from it; "
                "decompress it (gunzip), or use `python -m datamodules.pack wds`"
            )
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
        problems = [problem for part in own for problem in part.scan.problems]
        total = len(problems) + sum(part.shard.samples for part in own)
        remedy = "Repair them, or leave their shards out"
        skipped[split] = report_skipped(options.out / split, problems, total, remedy)
    for split, own in parts.items():
        pairs = [(part.shard, part.rows) for part in own]
        manifest = Manifest.assemble(options.out / split, classes, class_names, pairs)
        manifest.save()
        tell(split, Packed(manifest, skipped[split], manifest.num_samples, 0, seconds[split]))
    tell_next_step(options.out)


@dataclass(frozen=True)
class _Part:
    """A shard that was read."""

    scan: Scan
    shard: Shard
    rows: np.ndarray  # its part of the manifest's index


def _check_secrets(locations: list[str]) -> None:
    """Refuse passwords, and say where queries and commands are kept: the manifest has to."""
    if secret := next(filter(has_password, locations), None):
        raise ValueError(
            f"{redacted(secret)} has a password in it, which everybody who reads the index would "
            "learn: leave it out, and put it into ~/.netrc (machine HOST login USER password WORD)"
        )
    if any(scheme_of(each) == "pipe" or "?" in each for each in locations if is_remote(each)):
        console.print(
            "note: the index keeps queries of URLs (?...) and commands as they are: if there are "
            "keys in them, keep OUT to yourself"
        )


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
        checksums = []
        with open(path, "rb") as file:
            for image in found.rows:
                file.seek(image["offset"])
                checksums.append(zlib.crc32(file.read(image["size"])))
                advance(0)  # raises if the worker must stop
        shard = Shard(name, len(checksums), path.stat().st_size, sha256_of(path), location)
    # The keys are those that webdataset gives, but printable, because they appear in logs.
    names = [image["name"].decode("utf-8", "surrogateescape") for image in found.rows]
    keys = [printable(key_and_suffix(each)[0]).encode("utf-8") for each in names]
    offsets, sizes, labels = (found.rows[n].tolist() for n in ("offset", "size", "label"))
    rows = index_rows(list(zip(offsets, sizes, checksums, labels, keys, strict=True)))
    return _Part(found, shard, rows)
