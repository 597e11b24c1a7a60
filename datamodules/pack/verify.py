"""Read every byte of packed shards again and say what is wrong."""

from __future__ import annotations

import tarfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from datamodules.manifest import MANIFEST, Manifest, Shard
from datamodules.pack.images import UnreadableImage, to_rgb_jpeg
from datamodules.pack.job import sha256_of
from datamodules.pack.workers import Workers, advance


@dataclass(frozen=True)
class Verdict:
    """What ``verify`` read of one split, and each thing that is wrong, in words."""

    manifest: Manifest
    problems: tuple[str, ...]


@dataclass(frozen=True)
class _Task:
    root: Path
    shard: Shard
    rows: np.ndarray


def packed_splits(out: Path) -> list[Manifest]:
    """Load the manifests of ``OUT/train`` and ``OUT/val``.

    Raises:
        ValueError: There is none, or a split's folder has none or a damaged one.
    """
    folders = [out / name for name in ("train", "val") if (out / name).is_dir()]
    if (out / MANIFEST).exists():
        folders.append(out)
    if not folders:
        raise ValueError(f"{out} has neither train/ nor val/; OUT is the folder given to pack")
    return [Manifest.load(folder) for folder in folders]


def verify(manifest: Manifest, workers: Workers, progress: Callable[[int], Any]) -> Verdict:
    """Check hashes, offsets, images, labels and counts of one split."""
    starts = manifest.starts
    tasks = [
        _Task(manifest.root, shard, np.asarray(manifest.samples[starts[at] : starts[at + 1]]))
        for at, shard in enumerate(manifest.shards)
    ]
    results = dict(workers.run(_verify_shard, tasks, progress))
    problems = [problem for at in range(len(tasks)) for problem in results[at]]
    names = {shard.name for shard in manifest.shards}
    problems += [
        f"{path.name}: not in the manifest"
        for path in sorted(manifest.root.glob("*.tar"))
        if path.name not in names
    ]
    keys = np.sort(manifest.samples["key"])
    twice = np.unique(keys[1:][keys[1:] == keys[:-1]])
    problems += [f"the key {key.decode()} comes more than once" for key in twice]
    return Verdict(manifest, tuple(problems))


def _verify_shard(task: _Task) -> list[str]:
    path, shard = task.root / task.shard.name, task.shard
    try:
        problems = _content_problems(path, shard, task.rows)
    except FileNotFoundError:
        problems = ["the file is gone"]
    except OSError as error:
        problems = [f"cannot be read ({error})"]
    return [f"{shard.name}: {problem}" for problem in problems]


def _content_problems(path: Path, shard: Shard, rows: np.ndarray) -> list[str]:
    problems = []
    length = path.stat().st_size
    if length != shard.bytes:
        problems.append(f"has {length:,} bytes and not {shard.bytes:,}")
    if sha256_of(path) != shard.sha256:
        problems.append("its sha256 differs from the manifest's")
    with open(path, "rb") as file:

        def member(offset: int) -> tuple[str, bytes]:
            """Return name and data of the member whose data begins at this offset."""
            file.seek(offset - tarfile.BLOCKSIZE)
            header = file.read(tarfile.BLOCKSIZE)
            info = tarfile.TarInfo.frombuf(header, "utf-8", "surrogateescape")
            return info.name, file.read(info.size)

        end = 0  # of the samples so far; between them must be nothing
        for row in rows:
            key, offset, size = row["key"].decode("utf-8"), int(row["offset"]), int(row["size"])
            label_offset = offset + size + -size % tarfile.BLOCKSIZE + tarfile.BLOCKSIZE
            try:
                if offset != end + tarfile.BLOCKSIZE:
                    raise ValueError(f"lies at byte {offset} and not right after the one before")
                name, image = member(offset)
                if name != f"{key}.jpg" or len(image) != size:
                    raise ValueError(f"{name!r} of {len(image)} bytes lies in place of the image")
                if to_rgb_jpeg(image) != image:
                    raise ValueError("the image is not an RGB JPEG")
                name, label = member(label_offset)
                if name != f"{key}.cls" or label != b"%d" % row["label"]:
                    raise ValueError(f"{name!r} says {label!r}, the manifest {row['label']}")
            except UnreadableImage as error:
                problems.append(f"{key}: the image cannot be decoded ({error})")
            except (ValueError, tarfile.TarError, OSError) as error:
                problems.append(f"{key}: {error}")
            end = label_offset + tarfile.BLOCKSIZE
            advance()
    if end + 2 * tarfile.BLOCKSIZE != length:
        problems.append(f"its samples end at byte {end:,} of {length:,}")
    return problems
