"""Reads every byte of the shards again and names what is wrong.

example:
  python -m datamodules.pack verify packed/

Packed shards are checked to the last byte. The layout of indexed shards is
other people's, so only whole files and each image are checked.
Exits with 1 if anything is wrong.
"""

from __future__ import annotations

import tarfile
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from datamodules.common.progress import progress
from datamodules.common.reading import plain
from datamodules.decoding.images import UnreadableImage
from datamodules.pack.images import to_rgb_jpeg
from datamodules.pack.options import VerifyOptions
from datamodules.pack.packing import console, manifests_in, sizes
from datamodules.pack.sources.locations import local_copy
from datamodules.processes.pool import Pool, advance
from datamodules.remote.sources import SourceError
from datamodules.shards.entries import Shard
from datamodules.shards.manifest import Manifest, sha256_of
from datamodules.shards.writer import suffix_of


def run(options: VerifyOptions) -> int:
    """Run the command; returns 1 if anything is wrong."""
    wrong = 0
    manifests = manifests_in(options.out, options.allow_pipe)
    with Pool(options.workers) as pool:
        for manifest in manifests:
            name = manifest.root.name
            with progress(console, name, manifest.num_samples) as update:
                problems = verify(manifest, pool, update)
            for problem in problems:
                console.print(f"{name}/{problem}", markup=False)
            wrong += len(problems)
            console.print(f"{name}: {sizes(manifest)}, {len(problems)} problems")
    return 1 if wrong else 0


def verify(manifest: Manifest, pool: Pool, progress: Callable[[int], Any]) -> list[str]:
    """Check one split: hashes and images; for packed shards also labels, layout and keys.

    Args:
        manifest: The split's manifest.
        pool: Checks the shards in parallel.
        progress: Called with the number of images checked so far.
    """
    rows = np.split(np.asarray(manifest.samples), manifest.starts[1:-1])
    locations = map(manifest.location, manifest.shards)
    tasks = list(zip(locations, manifest.shards, rows, strict=True))
    problems = [problem for part in pool.run(_verify_shard, tasks, progress) for problem in part]
    names = {shard.name for shard in manifest.shards}
    problems += [
        f"{path.name}: not in the manifest"
        for path in sorted(manifest.root.glob("[!.]*.tar"))
        if path.name not in names
    ]
    packed = np.repeat(~manifest.shards.elsewhere, manifest.counts)
    keys = np.sort(manifest.samples["key"][packed])
    repeated = np.unique(keys[1:][keys[1:] == keys[:-1]])
    problems += [f"the key {key.decode()} appears more than once" for key in repeated]
    return problems


def _verify_shard(task: tuple[str, Shard, np.ndarray]) -> list[str]:
    location, shard, rows = task
    try:
        with local_copy(location) as path:
            problems = _content_problems(path, shard, rows)
    except FileNotFoundError:
        problems = ["the file is missing"]
    except SourceError as error:
        problems = [str(error)]
    except OSError as error:
        problems = [f"cannot be read ({error})"]
    return [f"{shard.name}: {problem}" for problem in problems]


def _content_problems(path: Path, shard: Shard, rows: np.ndarray) -> list[str]:
    problems = []
    packed = shard.url is None
    length = path.stat().st_size
    if length != shard.bytes:
        problems.append(f"has {length:,} bytes and not {shard.bytes:,}")
    if sha256_of(path) != shard.sha256:
        problems.append("its sha256 differs from the manifest's")
    with open(path, "rb", opener=plain) as file:
        end = 0  # of the samples so far; there must be nothing between packed ones
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
    if to_rgb_jpeg(image, quality="lossless") != image and packed:
        raise ValueError("the image is neither an RGB JPEG nor an RGB PNG")


def _check_members(file: BinaryIO, row: np.void, end: int) -> None:
    """Check that image and label follow byte `end`, with the names that `write_shard` gives."""
    if row["offset"] != end + tarfile.BLOCKSIZE:
        raise ValueError(f"is at byte {row['offset']} and not right after the one before")
    image = _member(file, int(row["offset"]))
    suffix = suffix_of(file.read(8))
    if image.name != f"{_key(row)}.{suffix}" or image.size != row["size"]:
        raise ValueError(f"{image.name!r} of {image.size} bytes is in place of the image")
    label = _member(file, _label_offset(row))
    content = file.read(min(max(label.size, 0), 20))  # a damaged header may give any size
    if label.name != f"{_key(row)}.cls" or content != b"%d" % row["label"]:
        raise ValueError(f"{label.name!r} says {content!r}, the manifest {row['label']}")


def _member(file: BinaryIO, offset: int) -> tarfile.TarInfo:
    """Read the header of the member whose data begins at this offset, which the file is then at."""
    file.seek(offset - tarfile.BLOCKSIZE)
    return tarfile.TarInfo.frombuf(file.read(tarfile.BLOCKSIZE), "utf-8", "surrogateescape")


def _label_offset(row: np.void) -> int:
    size = int(row["size"])
    return int(row["offset"]) + size + -size % tarfile.BLOCKSIZE + tarfile.BLOCKSIZE


def _key(row: np.void) -> str:
    return bytes(row["key"]).decode("utf-8", "replace")
