"""Read every byte of the shards again and say what is wrong.

Of packed shards everything is known, to the last byte. Of those that were only indexed, other people
decided the layout: the manifest vouches for the whole files and for each image.
"""

from __future__ import annotations

import tarfile
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from datamodules.common.pool import Workers, advance
from datamodules.decoding.images import UnreadableImage
from datamodules.pack.expand import local_copy
from datamodules.pack.images import to_rgb_jpeg
from datamodules.remote.sources import SourceError
from datamodules.shards.manifest import MANIFEST, Manifest, Shard, sha256_of


@dataclass(frozen=True)
class Verdict:
    """What ``verify`` read of one split, and each thing that is wrong, in words."""

    manifest: Manifest
    problems: tuple[str, ...]


@dataclass(frozen=True)
class _Task:
    location: str
    shard: Shard
    rows: np.ndarray


def packed_splits(out: Path, allow_pipe: bool = False) -> list[Manifest]:
    """Load the manifests of ``OUT/train`` and ``OUT/val``.

    Raises:
        ValueError: There is none, a split's folder has none or a damaged one, or one that names
            commands (``pipe:...``), which must be allowed.
    """
    folders = [out / name for name in ("train", "val") if (out / name).is_dir()]
    if (out / MANIFEST).exists():
        folders.append(out)
    if not folders:
        raise ValueError(f"{out} has neither train/ nor val/; OUT is the folder given to pack")
    manifests = [Manifest.load(folder, allow_pipe=True) for folder in folders]
    if not allow_pipe and (pipes := next(filter(has_pipes, manifests), None)):
        raise ValueError(
            f"the manifest in {pipes.root} reads its shards through commands (pipe:...), and one "
            "from elsewhere could run anything; if you trust it, say --allow-pipe"
        )
    return manifests


def has_pipes(manifest: Manifest) -> bool:
    """Whether any shard is the output of a command."""
    return any(shard.url is not None and shard.url.startswith("pipe:") for shard in manifest.shards)


def verify(manifest: Manifest, workers: Workers, progress: Callable[[int], Any]) -> Verdict:
    """Check one split: hashes and images, and of packed shards also labels, layout and keys."""
    starts = manifest.starts
    tasks = [
        _Task(
            manifest.location(shard),
            shard,
            np.asarray(manifest.samples[starts[at] : starts[at + 1]]),
        )
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
    packed = np.repeat([shard.url is None for shard in manifest.shards], manifest.counts)
    keys = np.sort(manifest.samples["key"][packed])
    twice = np.unique(keys[1:][keys[1:] == keys[:-1]])
    problems += [f"the key {key.decode()} comes more than once" for key in twice]
    return Verdict(manifest, tuple(problems))


def _verify_shard(task: _Task) -> list[str]:
    try:
        with local_copy(task.location) as path:
            problems = _content_problems(path, task.shard, task.rows)
    except FileNotFoundError:
        problems = ["the file is gone"]
    except SourceError as error:
        problems = [str(error)]
    except OSError as error:
        problems = [f"cannot be read ({error})"]
    return [f"{task.shard.name}: {problem}" for problem in problems]


def _content_problems(path: Path, shard: Shard, rows: np.ndarray) -> list[str]:
    problems = []
    packed = shard.url is None
    length = path.stat().st_size
    if length != shard.bytes:
        problems.append(f"has {length:,} bytes and not {shard.bytes:,}")
    if sha256_of(path) != shard.sha256:
        problems.append("its sha256 differs from the manifest's")
    with open(path, "rb") as file:
        end = 0  # of the samples so far; between packed ones must be nothing
        for row in rows:
            try:
                if packed:
                    _check_members(file, row, end)
                _check_image(file, row, packed)
            except UnreadableImage as error:
                problems.append(f"{_key(row)}: the image cannot be decoded ({error})")
            except (ValueError, tarfile.TarError, OSError) as error:
                problems.append(f"{_key(row)}: {error}")
            end = _label_offset(row) + tarfile.BLOCKSIZE
            advance()
    if packed and end + 2 * tarfile.BLOCKSIZE != length:
        problems.append(f"its samples end at byte {end:,} of {length:,}")
    return problems


def _check_image(file: BinaryIO, row: np.void, packed: bool) -> None:
    file.seek(int(row["offset"]))
    image = file.read(int(row["size"]))
    if len(image) < row["size"]:
        raise ValueError(f"the shard ends after {len(image)} of {row['size']} bytes of the image")
    if zlib.crc32(image) != row["crc32"]:
        raise ValueError("the CRC-32 of the image differs from the manifest's")
    if to_rgb_jpeg(image) != image and packed:
        raise ValueError("the image is not an RGB JPEG")


def _check_members(file: BinaryIO, row: np.void, end: int) -> None:
    """Check that image and label come right after byte ``end``, under the names of ``write_shard``."""
    if row["offset"] != end + tarfile.BLOCKSIZE:
        raise ValueError(f"lies at byte {row['offset']} and not right after the one before")
    image = _member(file, int(row["offset"]))
    if image.name != f"{_key(row)}.jpg" or image.size != row["size"]:
        raise ValueError(f"{image.name!r} of {image.size} bytes lies in place of the image")
    label = _member(file, _label_offset(row))
    told = file.read(label.size)
    if label.name != f"{_key(row)}.cls" or told != b"%d" % row["label"]:
        raise ValueError(f"{label.name!r} says {told!r}, the manifest {row['label']}")


def _member(file: BinaryIO, offset: int) -> tarfile.TarInfo:
    """Read the header of the member whose data begins at this offset; the file is there then."""
    file.seek(offset - tarfile.BLOCKSIZE)
    return tarfile.TarInfo.frombuf(file.read(tarfile.BLOCKSIZE), "utf-8", "surrogateescape")


def _label_offset(row: np.void) -> int:
    size = int(row["size"])
    return int(row["offset"]) + size + -size % tarfile.BLOCKSIZE + tarfile.BLOCKSIZE


def _key(row: np.void) -> str:
    return row["key"].decode("utf-8")
