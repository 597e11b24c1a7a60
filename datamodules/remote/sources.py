"""Reads a remote file well: complete or an error, with retries and timeouts, without secrets.

Remote files break in ways that local ones do not. So the bytes are counted, a silent server is
abandoned, and what may get better is tried again. Passwords and queries of URLs and arguments of
commands are often credentials, so an error says what happened without them.
"""

from __future__ import annotations

import asyncio
import errno
import io
import os
import secrets
import subprocess
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import Any, BinaryIO, TypeVar

from datamodules.common.folders import natural_key
from datamodules.common.reading import MAX_MANIFEST
from datamodules.remote.openers import (
    SLOWEST,
    check_opener,
    list_files,
    open_anywhere,
    open_at,
)
from datamodules.remote.redirects import RefusedRedirect
from datamodules.remote.urls import redacted, scheme_of

DELAYS = (1.0, 2.0, 4.0, 8.0, 16.0)
"""Seconds before the second attempt, the third, and so on."""
TIMEOUT = 60.0
"""Seconds without a single byte after which a server or a command is abandoned."""
BLOCK = 1 << 18
"""Bytes to request from a source at a time; the network delivers fewer."""
MAX_BYTES = MAX_MANIFEST
"""The most bytes of a file that is read into memory: the manifest of a million shards has less."""

T = TypeVar("T")


class SourceError(ValueError):
    """A source that cannot be read. A full local disk is an `OSError` instead.

    Args:
        name: Name of the source, without secrets.
        cause: What happened, such as "HTTP 503".
        transient: Whether another attempt may help.
    """

    def __init__(self, name: str, cause: str = "", transient: bool = True) -> None:
        super().__init__(name, cause, transient)
        self.name, self.cause, self.transient = name, cause, transient
        self.attempts = 1

    def __str__(self) -> str:
        # The cause is missing if a DataLoader recreates the error from its text.
        made = f"{self.attempts} attempt{'s' if self.attempts > 1 else ''}"
        return f"cannot read {self.name}: {self.cause} ({made})" if self.cause else self.name


def open_source(
    location: str, offset: int = 0, size: int | None = None, timeout: float = TIMEOUT
) -> io.RawIOBase:
    """Open for reading, once. Reads return what has arrived, as with sockets, and b"" at the end.

    Args:
        location: A path, a URL, or `pipe:` and a shell command.
        offset: Where to begin, in bytes. If the source cannot seek, it begins at 0; see `tell`.
        size: Bytes of the whole source. Fewer or more of them are then an error.
        timeout: Seconds to wait for the next byte over HTTP and from commands. Other storage uses
            its own settings.

    Raises:
        ValueError: Nothing installed opens such a location.
        SourceError: It cannot be opened now. Reading raises the same.
    """
    return _Source(location, offset, size, timeout)


def read_source(location: str, delays: Sequence[float] = DELAYS, timeout: float = TIMEOUT) -> bytes:
    """Read a small file in `len(delays) + 1` attempts.

    Raises:
        ValueError: Nothing installed opens such a location.
        SourceError: It cannot be read, or has more than `MAX_BYTES`.
    """

    def attempt() -> bytes:
        data = bytearray()
        with open_source(location, timeout=timeout) as source:
            while block := source.read(BLOCK):
                data += block
                if len(data) > MAX_BYTES:
                    cause = f"it has more than {MAX_BYTES:,} bytes"
                    raise SourceError(redacted(location), cause, transient=False)
        return bytes(data)

    return with_retries(attempt, delays)


def files_of(folder: str, suffixes: tuple[str, ...], delays: Sequence[float] = DELAYS) -> list[str]:
    """URLs of the files below a remote folder whose names end so; or of those that match a pattern.

    Raises:
        ValueError: Nothing installed opens such a location.
        SourceError: The folder cannot be listed.
    """
    check_opener(folder)

    def attempt() -> list[str]:
        with _failures(folder, TIMEOUT):
            return list_files(folder)

    found = with_retries(attempt, delays)
    return sorted((each for each in found if each.endswith(suffixes)), key=natural_key)


@contextmanager
def opened_anywhere(location: str, timeout: float = TIMEOUT) -> Iterator[tuple[BinaryIO, object]]:
    """Open a file to read it in any order, once; and give what tells its version.

    Raises:
        ValueError: Nothing installed opens such a location.
        SourceError: It cannot be read now.
    """
    check_opener(location)
    with _failures(location, timeout):
        file, version = open_anywhere(location, timeout)
        with file:
            yield file, version


def with_retries(attempt: Callable[[], T], delays: Sequence[float] = DELAYS) -> T:
    """Call until it raises no transient `SourceError`, at most `len(delays) + 1` times."""
    for number, delay in enumerate((*delays, None), start=1):
        try:
            return attempt()
        except SourceError as error:
            error.attempts = number
            if delay is None or not error.transient:
                raise
        # Half to one and a half of it, so that not everybody returns to a server at once. The
        # process's random generators are left alone: they belong to the augmentation.
        time.sleep(delay * (0.5 + secrets.randbelow(1000) / 1000))
    raise AssertionError("unreachable")


class _Source(io.RawIOBase):
    """What `open_source` returns."""

    def __init__(self, location: str, offset: int, size: int | None, timeout: float) -> None:
        self._location, self._size, self._timeout = location, size, timeout
        self._position = 0
        self._waited, self._received = 0.0, 0
        self._file: Any = None
        check_opener(location)
        with self._safely():
            self._file, self._position = open_at(location, offset, size, timeout)

    def readable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._position

    def readinto(self, buffer: Any) -> int:
        """Fill the buffer, or a part of it. Never returns bytes beyond `size`."""
        began = time.monotonic()
        with self._safely():
            data = self._file.read(len(buffer))
        count = len(data)
        self._check_speed(time.monotonic() - began, count)
        if self._size is not None:
            if self._position + count > self._size:
                raise self._error(f"it has more than the {self._size:,} bytes expected")
            if not data and self._position < self._size:
                raise self._error(f"the transfer ended {self._progress()}")
        buffer[:count] = data
        self._position += count
        return count

    def _check_speed(self, seconds: float, count: int) -> None:
        """Abandon a source that is too slow over its timeout, though a byte comes now and then."""
        self._waited += seconds
        self._received += count
        if self._waited > self._timeout and count:
            speed = self._received / self._waited
            if speed < SLOWEST:
                raise self._error(f"only {speed:,.0f} bytes a second came {self._progress()}")
            self._waited, self._received = 0.0, 0

    def close(self) -> None:
        # An error on closing says nothing about what was read.
        if not self.closed and self._file is not None:
            with suppress(Exception):
                self._file.close()
        super().close()

    @contextmanager
    def _safely(self) -> Iterator[None]:
        with _failures(self._location, self._timeout, self._progress):
            yield

    def _progress(self) -> str:
        total = "" if self._size is None else f" of {self._size:,}"
        return f"after {self._position:,}{total} bytes" if self._file is not None else ""

    def _error(self, cause: str, transient: bool = True) -> SourceError:
        return SourceError(redacted(self._location), cause, transient)


@contextmanager
def _failures(
    location: str, timeout: float, progress: Callable[[], str] = lambda: ""
) -> Iterator[None]:
    """Turn what other libraries raise into a SourceError: their texts hold whole URLs."""
    try:
        yield
    except Exception as error:
        if not _is_failure(error):
            raise
        cause, transient = _explain(error, timeout)
        cause = f"{cause} {progress()}".rstrip()
        if scheme_of(location) == "hf" and not transient:  # the Hub hides what is private
            cause += "; private and gated data need `hf auth login`"
        raise SourceError(redacted(location), cause, transient) from None


def _is_failure(error: Exception) -> bool:
    """Whether the world is at fault. Other errors are mistakes in the code, and are passed on."""
    kinds = (OSError, EOFError, ValueError, asyncio.TimeoutError)
    return isinstance(error, kinds) or type(error).__module__ != "builtins"


def _explain(error: Exception, timeout: float) -> tuple[str, bool]:
    """What happened, without the error's own text, and whether another attempt may help."""
    # aiohttp has `status`, gcsfs `code`, and huggingface_hub an answer with its code.
    status = error.status if hasattr(error, "status") else getattr(error, "code", None)
    status = getattr(getattr(error, "response", None), "status_code", status)
    if isinstance(refused := error.__cause__ or error, RefusedRedirect):  # fsspec may wrap it
        return str(refused), False
    if status == 404:
        return "no such file", False
    if isinstance(status, int):
        return f"HTTP {status}", status >= 500 or status in (408, 429)
    if isinstance(error, subprocess.CalledProcessError):
        cause = f"the command ended with exit status {error.returncode}"
        return cause, error.returncode not in (126, 127)  # the shell's codes for: no such program
    if isinstance(error, subprocess.TimeoutExpired):
        return "the command closed its output and did not end", True
    if isinstance(error, (TimeoutError, asyncio.TimeoutError)):  # two classes in Python 3.10
        return f"no answer for {timeout:g} s", True
    if isinstance(error, FileNotFoundError):
        return "no such file", False
    if isinstance(error, OSError) and error.errno in errno.errorcode:
        return os.strerror(error.errno or 0), not isinstance(error, PermissionError)
    if isinstance(error, (PermissionError, ValueError)):  # a wrong URL or certificate, for example
        return type(error).__name__, False
    return f"the connection failed ({type(error).__name__})", True
