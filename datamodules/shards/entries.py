"""What a manifest lists: shards and samples."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np


def sample_dtype(key_length: int) -> np.dtype:
    """Row of the index; offset, size (bytes) and CRC-32 are those of the image in its shard."""
    numbers = [("offset", "<u8"), ("size", "<u4"), ("crc32", "<u4"), ("label", "<i4")]
    return np.dtype([*numbers, ("key", f"S{key_length}")])


@dataclass(frozen=True)
class Shard:
    """One tar file."""

    name: str
    samples: int
    bytes: int
    sha256: str  # 64 hexadecimal digits
    url: str | None = None  # URL or path, if it is not in the folder of the manifest


@dataclass(frozen=True)
class Sample:
    """Where one image is: `size` bytes from `offset` in `shard`, with the CRC-32 `crc32`."""

    id: int
    shard: Shard
    key: str
    offset: int
    size: int
    crc32: int
    label: int
