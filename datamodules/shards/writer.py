"""Write samples into a tar shard: the same samples always give the same bytes."""

from __future__ import annotations

import hashlib
import os
import tarfile
import zlib
from collections.abc import Iterable
from pathlib import Path

import numpy as np

from datamodules.shards.manifest import SAMPLE_DTYPE, Shard

MAX_KEY_BYTES = 96
"""A ustar name holds 100 bytes; ``KEY.jpg`` must fit."""


def shard_name(index: int) -> str:
    """``shard-000000.tar`` for 0."""
    return f"shard-{index:06d}.tar"


def write_shard(
    path: str | Path, samples: Iterable[tuple[str, bytes, int]]
) -> tuple[Shard, np.ndarray]:
    """Write one shard under a temporary name and rename it when it is complete.

    Args:
        path: Where the shard goes; its folder exists.
        samples: ``(key, JPEG bytes, label)`` in the order of the shard; read once, one at a time.

    Returns:
        The shard's entry in the manifest, and its index rows, ``(samples,)`` of ``SAMPLE_DTYPE``.

    Raises:
        ValueError: No samples, or a key that webdataset or ustar cannot carry, or comes twice.
        OSError: The file cannot be written; nothing of it is left.
    """
    path = Path(path)
    # The process id keeps two runs into one folder from writing into the same file.
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    digest = hashlib.sha256()
    rows: dict[bytes, tuple[int, int, int, int]] = {}
    position = 0
    try:
        with open(temporary, "wb") as file:
            for key, image, label in samples:
                encoded = _checked_key(key)
                if encoded in rows:
                    raise ValueError(f"the key {key!r} comes twice in {path.name}")
                head, body = _member(f"{key}.jpg", image), _member(f"{key}.cls", b"%d" % label)
                data = position + tarfile.BLOCKSIZE
                rows[encoded] = (data, len(image), zlib.crc32(image), label)
                for block in (head, body):
                    digest.update(block)
                    file.write(block)
                    position += len(block)
            end = bytes(2 * tarfile.BLOCKSIZE)
            digest.update(end)
            file.write(end)
            position += len(end)
        if not rows:
            raise ValueError(f"no samples for {path}")
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
    dtype = SAMPLE_DTYPE(max(map(len, rows)))
    index = np.array([(*where, key) for key, where in rows.items()], dtype=dtype)
    return Shard(path.name, len(rows), position, digest.hexdigest()), index


def _checked_key(key: str) -> bytes:
    encoded = key.encode("utf-8")
    # webdataset splits names at the first dot, and a slash would make folders on unpacking.
    if not key.isprintable() or not 0 < len(encoded) <= MAX_KEY_BYTES or set(key) & set("./\\"):
        raise ValueError(
            f"the key {key!r} cannot name a sample: it needs 1 to {MAX_KEY_BYTES} bytes "
            "and no dot, slash or control character"
        )
    return encoded


def _member(name: str, data: bytes) -> bytes:
    """Header, data and padding of one tar member, with nothing in it that could vary."""
    info = tarfile.TarInfo(name)  # mode 0644, and mtime, uid, gid 0
    info.size = len(data)
    header = info.tobuf(tarfile.USTAR_FORMAT, encoding="utf-8")
    return b"".join([header, data, bytes(-len(data) % tarfile.BLOCKSIZE)])
