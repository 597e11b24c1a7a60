"""Writes samples into a tar shard: the same samples always give the same bytes."""

from __future__ import annotations

import hashlib
import tarfile
import zlib
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np

from datamodules.common.files import replacing
from datamodules.shards.entries import Shard, sample_dtype

MAX_KEY_BYTES = 96
"""A ustar name has at most 100 bytes, and `KEY.jpg` must fit."""

_PNG = b"\x89PNG\r\n\x1a\n"


def shard_name(index: int) -> str:
    """`shard-000000.tar` for 0."""
    return f"shard-{index:06d}.tar"


def suffix_of(image: bytes) -> str:
    """How the name of an image in a shard ends: `jpg` or `png`."""
    return "png" if image.startswith(_PNG) else "jpg"


def write_shard(
    path: str | Path, samples: Iterable[tuple[str, bytes, int]]
) -> tuple[Shard, np.ndarray]:
    """Write one shard, which appears under its name when it is complete.

    Args:
        path: The shard to write.
        samples: Tuples (key, bytes of a JPEG or PNG, label) in the order of the shard; read one at
            a time.

    Returns:
        The shard's entry in the manifest, and its rows of the index, see `index_rows`.

    Raises:
        ValueError: There are no samples, or a key comes twice, or webdataset or ustar cannot
            represent it.
        OSError: The file cannot be written; nothing of it is left.
    """
    path = Path(path)
    digest = hashlib.sha256()
    rows: dict[bytes, tuple[int, int, int, int]] = {}
    with replacing(path) as temporary, open(temporary, "wb") as file:

        def write(data: bytes) -> None:
            digest.update(data)
            file.write(data)

        for key, image, label in samples:
            encoded = _checked_key(key)
            if encoded in rows:
                raise ValueError(f"the key {key!r} comes twice in {path.name}")
            offset = file.tell() + tarfile.BLOCKSIZE
            rows[encoded] = (offset, len(image), zlib.crc32(image), label)
            write(_member(f"{key}.{suffix_of(image)}", image))
            write(_member(f"{key}.cls", b"%d" % label))
        if not rows:
            raise ValueError(f"no samples for {path}")
        write(bytes(2 * tarfile.BLOCKSIZE))
        length = file.tell()
    index = index_rows([(*numbers, key) for key, numbers in rows.items()])
    return Shard(path.name, len(rows), length, digest.hexdigest()), index


def index_rows(rows: Sequence[tuple[int, int, int, int, bytes]]) -> np.ndarray:
    """Make the table of tuples (offset, size, CRC-32, label, key): `sample_dtype` (samples,)."""
    return np.array(rows, dtype=sample_dtype(max((len(row[-1]) for row in rows), default=1)))


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
    info = tarfile.TarInfo(name)  # mode 0644; mtime, uid and gid 0
    info.size = len(data)
    header = info.tobuf(tarfile.USTAR_FORMAT, encoding="utf-8")
    return b"".join([header, data, bytes(-len(data) % tarfile.BLOCKSIZE)])
