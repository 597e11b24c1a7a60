"""What a manifest lists: shards and samples."""

from __future__ import annotations

import mmap
import os
import weakref
from array import array
from collections.abc import Iterable, Iterator, Sequence
from multiprocessing.context import get_spawning_popen
from multiprocessing.reduction import DupFd
from typing import Any, NamedTuple, overload

import numpy as np

_READ_AT_ONCE = 4096


def sample_dtype(key_length: int) -> np.dtype:
    """Row of the index; offset, size (bytes) and CRC-32 are those of the image in its shard."""
    numbers = [("offset", "<u8"), ("size", "<u4"), ("crc32", "<u4"), ("label", "<i4")]
    return np.dtype([*numbers, ("key", f"S{key_length}")])


class Shard(NamedTuple):
    """One tar file."""

    name: str
    samples: int
    bytes: int
    sha256: str  # 64 hexadecimal digits
    url: str | None = None  # URL or path, if it is not in the folder of the manifest


class Sample(NamedTuple):
    """Where one image is: `size` bytes from `offset` in `shard`, with the CRC-32 `crc32`."""

    id: int
    shard: Shard
    key: str
    offset: int
    size: int
    crc32: int
    label: int


class Shards(Sequence[Shard]):
    """The shards of a manifest, in memory that a process shares with the processes it starts.

    As objects, a million shards would take 0.6 GB in each of them. Here they are columns of numbers
    and one text, in a file in memory. It has no name, so the system frees it with the last process
    that uses it, however that ends.

    Args:
        file: Descriptor of what `of` wrote; closed in the end.
        length: Number of shards.

    Attributes:
        starts: First sample id of each shard, then the number of samples: int64 (shards + 1,).
        bytes: Length of each shard, int64 (shards,).
    """

    def __init__(self, file: int, length: int) -> None:
        weakref.finalize(self, os.close, file)
        self._file, self._length = file, length
        self._memory = mmap.mmap(file, 0, access=mmap.ACCESS_READ)
        numbers = np.frombuffer(self._memory, np.int64, 4 * (length + 1)).reshape(4, -1)
        self.starts: np.ndarray = numbers[0]
        self._texts: np.ndarray = numbers[1]
        self.bytes: np.ndarray = numbers[2, 1:]
        self._elsewhere: np.ndarray = numbers[3, 1:]

    @classmethod
    def of(cls, shards: Iterable[Shard]) -> Shards:
        """Write shards, in the order of their sample ids.

        Raises:
            ValueError: The name of a shard is not a file name, or there is a null character in its
                hash or URL.
            TypeError: A value has another type than in `Shard`.
            OverflowError: A number does not fit into 64 bits.
        """
        numbers, text = array("q", [0] * 4), bytearray()
        for shard in shards:
            name = shard.name
            record = "\0".join((name, shard.sha256, shard.url or "", ""))
            # A manifest may come from elsewhere: never leave its folder.
            if "/" in name or "\\" in name or name in ("", ".", "..") or record.count("\0") != 3:
                raise ValueError(
                    f"the shard {name!r} is not a file name, or there is a null character in its "
                    "sha256 or url"
                )
            text += record.encode()
            numbers.extend((shard.samples, len(text), shard.bytes, bool(shard.url)))
        columns = np.array(numbers).reshape(-1, 4).T.copy()
        columns[0] = np.cumsum(columns[0])
        columns[1] += columns.nbytes
        file = os.memfd_create("shards")
        with open(file, "wb", closefd=False) as memory:
            memory.write(columns.data)
            memory.write(text)
        return cls(file, columns.shape[1] - 1)

    def __reduce__(self) -> tuple[Any, ...]:
        if get_spawning_popen() is None:  # whoever reads the pickle may not have our files
            return Shards.of, (list(self),)
        return _receive, (DupFd(self._file), self._length)

    def __len__(self) -> int:
        return self._length

    @overload
    def __getitem__(self, at: int) -> Shard: ...
    @overload
    def __getitem__(self, at: slice) -> list[Shard]: ...
    def __getitem__(self, at: int | slice) -> Shard | list[Shard]:
        numbers = range(self._length)[at]
        if isinstance(numbers, int):
            return self.take(np.array([numbers]))[0]
        return self.take(np.array(numbers, dtype=np.int64))

    def __iter__(self) -> Iterator[Shard]:
        for begin in range(0, self._length, _READ_AT_ONCE):
            yield from self[begin : begin + _READ_AT_ONCE]

    @property
    def elsewhere(self) -> np.ndarray:
        """Whether each shard has a URL, bool (shards,)."""
        return self._elsewhere > 0

    def take(self, numbers: np.ndarray) -> list[Shard]:
        """The shards at these positions, int64 (shards,): much faster than one by one."""
        begins, ends = self._texts[numbers].tolist(), self._texts[numbers + 1].tolist()
        samples = (self.starts[numbers + 1] - self.starts[numbers]).tolist()
        texts = [self._memory[begin:end] for begin, end in zip(begins, ends, strict=True)]
        return [
            Shard(name, count, size, sha256, url or None)
            for text, count, size in zip(texts, samples, self.bytes[numbers].tolist(), strict=True)
            for name, sha256, url, _ in [text.decode().split("\0")]
        ]


def _receive(file: Any, length: int) -> Shards:
    return Shards(file.detach(), length)
