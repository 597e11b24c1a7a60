"""Reads samples at the manifest's offsets, from shards in place or from cached copies."""

from __future__ import annotations

import errno
import os
import time
import zlib
from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

from datamodules.common.errors import DISK_FULL, SampleError
from datamodules.common.reading import plain
from datamodules.remote.cache import ShardCache
from datamodules.remote.sources import SourceError
from datamodules.remote.urls import local_path, redacted
from datamodules.shards.entries import Shard

_MAX_OPEN_SHARDS = 128  # the usual limit is 1,024 files, and shared memory needs some of them

_SECONDS_GIVEN_UP = 300.0
# What network file systems answer while a server is down.
_TRANSIENT = {errno.EIO, errno.ESTALE, errno.ETIMEDOUT, errno.EAGAIN, errno.ECONNRESET}
# What is wrong with this machine (with the cache's disk, for example) and not with the shard.
_NOT_THE_DATA = {errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.EBADF, errno.EINVAL, *DISK_FULL}


class SampleReader:
    """A webdataset stage that adds each sample's bytes (`image`), after checking them.

    Keeps the shards that it last read in place open. A pickled copy has none of them open, so each
    worker opens its own.

    Args:
        cache: Has the copies of remote shards, and of local ones if it serves them.
        delays: Seconds before a failed read of a local file is tried again. (The cache has its
            own.) After the last, reads of this shard are not repeated for five minutes.
    """

    def __init__(
        self, cache: ShardCache | None = None, delays: Sequence[float] = (1, 2, 4, 8, 16)
    ) -> None:
        self._cache, self._delays = cache, tuple(delays)
        self._files: OrderedDict[str, int] = OrderedDict()
        self._given_up: dict[str, tuple[float, Exception]] = {}

    def __call__(
        self,
        samples: Iterable[dict[str, Any]],
        handler: Callable[[SampleError], bool],
    ) -> Iterator[dict[str, Any]]:
        """Yield the samples with their bytes, in order.

        Args:
            samples: Samples with the location, offset, size and CRC-32 of their bytes.
            handler: Called with what is wrong with a sample that is left out; returns whether to
                continue.

        Raises:
            OSError: This machine is at fault, not the data: too many open files, a full disk,
                a cache that has gone.
        """
        for sample in samples:
            location, cause = sample["__url__"], "its bytes are not those that were packed"
            try:
                data = self._read(location, sample["shard"], sample["offset"], sample["size"])
                if len(data) < sample["size"]:
                    cause = "the shard ends before the sample does"
                elif zlib.crc32(data) == sample["crc32"]:
                    yield {**sample, "image": data}
                    continue
            except SourceError as error:
                cause = error.cause
            except OSError as error:
                if error.errno in _NOT_THE_DATA or self._is_cached(location):
                    raise
                cause = error.strerror or str(error)
            shard = redacted(location)
            if not handler(SampleError(sample["id"], sample["__key__"], shard, cause)):
                return

    def _read(self, location: str, shard: Shard, offset: int, size: int) -> bytes:
        """Read `size` bytes, or fewer at the end of the file."""
        until, failure = self._given_up.get(location, (0.0, SourceError("")))
        given_up = time.monotonic() < until
        if self._cache is not None and self._is_cached(location):
            if given_up:
                raise failure.with_traceback(None)
            try:
                file = self._cache.open(location, shard.bytes, shard.sha256)
            except SourceError as failure:
                self._give_up(location, failure)
                raise
            try:
                return _pread(file, offset, size)
            finally:
                os.close(file)
        for delay in (*(() if given_up else self._delays), None):
            try:
                return _pread(self._open(local_path(location)), offset, size)
            except OSError as error:
                if (file := self._files.pop(local_path(location), -1)) != -1:
                    os.close(file)
                if error.errno not in _TRANSIENT:
                    raise
                if delay is None:
                    self._give_up(location, error)
                    raise
                time.sleep(delay)
        raise AssertionError

    def _is_cached(self, location: str) -> bool:
        return self._cache is not None and self._cache.serves(location)

    def _give_up(self, location: str, error: Exception) -> None:
        self._given_up[location] = time.monotonic() + _SECONDS_GIVEN_UP, error

    def _open(self, path: str) -> int:
        file = self._files.pop(path, None)
        if file is None:
            if len(self._files) >= _MAX_OPEN_SHARDS:
                os.close(self._files.popitem(last=False)[1])
            file = plain(path)
        self._files[path] = file
        return file

    def close(self) -> None:
        """Close all shards."""
        while self._files:
            os.close(self._files.popitem()[1])

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_files": OrderedDict(), "_given_up": {}}

    def __del__(self) -> None:
        self.close()


def _pread(file: int, offset: int, size: int) -> bytes:
    data = b""  # network file systems may return less than they have
    while more := os.pread(file, size - len(data), offset + len(data)):
        data += more
    return data
