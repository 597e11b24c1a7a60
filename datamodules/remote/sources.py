"""Opens whatever webdataset or fsspec opens, and fails well: again, in time, without secrets.

Remote files break in ways that local ones do not. So what is read here is counted, a server that
says nothing is given up on, what may get better is tried again, and an error says what happened
without the URL's query, its password or the command's arguments, which are often credentials.
"""

from __future__ import annotations

import asyncio
import errno
import io
import os
import secrets
import select
import shutil
import subprocess
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from functools import partial
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any, TypeVar

import fsspec
import fsspec.core

from datamodules.remote.urls import is_remote, local_path, name_for_people, scheme_of

if TYPE_CHECKING:
    import aiohttp

DELAYS = (1.0, 2.0, 4.0, 8.0, 16.0)
"""Seconds before the second attempt, the third, and so on."""
TIMEOUT = 60.0
"""Seconds without a single byte after which a server or a command is given up."""
BLOCK = 1 << 18
"""Bytes to ask a source for at a time; the network delivers fewer."""

_RANGE = 8 << 20  # bytes a request where a file is read by ranges: 14 for a shard of 110 MB
_COMMANDS = ("pipe", "ais", "hf", "htgs", "sftp", "scp", "ftps")  # run by webdataset
_PLUGINS = {"s3": "s3fs", "s3a": "s3fs", "gs": "gcsfs", "gcs": "gcsfs", "az": "adlfs"}
_PLUGINS |= {"abfs": "adlfs", "http": "'fsspec[http]'", "https": "'fsspec[http]'"}

T = TypeVar("T")


class SourceError(Exception):
    """A source that cannot be read, named without secrets; a full local disk is an OSError.

    Attributes:
        cause: What happened, such as "HTTP 503".
        transient: Whether another attempt may help.
        attempts: How many were made.
    """

    def __init__(self, name: str, cause: str = "", transient: bool = True) -> None:
        super().__init__(name, cause, transient)
        self.name, self.cause, self.transient = name, cause, transient
        self.attempts = 1

    def __str__(self) -> str:
        # The cause is missing where a DataLoader makes the error anew, from its text.
        made = f"{self.attempts} attempt{'s' if self.attempts > 1 else ''}"
        return f"cannot read {self.name}: {self.cause} ({made})" if self.cause else self.name


def open_source(
    location: str, offset: int = 0, size: int | None = None, timeout: float = TIMEOUT
) -> io.RawIOBase:
    """Open for reading, once. Reads return what has come, as sockets do, and b"" at the end.

    Args:
        location: A path, a URL, or ``pipe:`` and a shell command.
        offset: Where to begin, bytes. Where the source cannot, it begins at 0; ``tell`` says which.
        size: Of the whole source, bytes. Fewer or more of them are an error then.
        timeout: Seconds to wait for the next byte over HTTP and from commands. Other storage keeps
            its own settings.

    Raises:
        ValueError: Nothing installed opens such a location.
        SourceError: It cannot be opened now. Its reads raise the same.
    """
    return _Source(location, offset, size, timeout)


def read_source(location: str, delays: Sequence[float] = DELAYS, timeout: float = TIMEOUT) -> bytes:
    """Read a small file whole, in ``len(delays) + 1`` attempts.

    Raises:
        ValueError: Nothing installed opens such a location.
        SourceError: It cannot be read.
    """

    def attempt() -> bytes:
        with open_source(location, timeout=timeout) as source:
            return b"".join(iter(partial(source.read, BLOCK), b""))

    return with_retries(attempt, delays)


def with_retries(attempt: Callable[[], T], delays: Sequence[float] = DELAYS) -> T:
    """Call until it raises no transient SourceError, at most ``len(delays) + 1`` times."""
    for number, delay in enumerate((*delays, None), start=1):
        try:
            return attempt()
        except SourceError as error:
            error.attempts = number
            if delay is None or not error.transient:
                raise
        # Half to one and a half of it, so that a server that is back is not met by all at once.
        # The generators of the process are left alone: they belong to the augmentation.
        time.sleep(delay * (0.5 + secrets.randbelow(1000) / 1000))
    raise AssertionError("unreachable")


class _Source(io.RawIOBase):
    """What `open_source` returns."""

    def __init__(self, location: str, offset: int, size: int | None, timeout: float) -> None:
        self._location, self._position, self._size = location, 0, size
        self._timeout = timeout
        self._file: Any = None
        _check_opener(location)
        with self._safely():
            self._file, self._position = _open(location, offset, size, timeout)

    def readable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._position

    def readinto(self, buffer: Any) -> int:
        """Fill the buffer, or a part of it. Never returns bytes beyond ``size``."""
        with self._safely():
            data = self._file.read(len(buffer))
        count = len(data)
        if self._size is not None:
            if self._position + count > self._size:
                raise self._error(f"it has more than the {self._size:,} bytes expected")
            if not data and self._position < self._size:
                raise self._error(f"the transfer ended {self._progress()}")
        buffer[:count] = data
        self._position += count
        return count

    def close(self) -> None:
        # An error while it is given up says nothing about what was read.
        if not self.closed and self._file is not None:
            with suppress(Exception):
                self._file.close()
        super().close()

    @contextmanager
    def _safely(self) -> Iterator[None]:
        """Turn what other libraries raise into a SourceError: their texts hold whole URLs."""
        try:
            yield
        except Exception as error:
            if not _is_failure(error):
                raise
            cause, transient = _explain(error, self._timeout)
            if self._file is not None:
                cause += f" {self._progress()}"
            raise self._error(cause, transient) from None

    def _progress(self) -> str:
        whole = "" if self._size is None else f" of {self._size:,}"
        return f"after {self._position:,}{whole} bytes"

    def _error(self, cause: str, transient: bool = True) -> SourceError:
        return SourceError(name_for_people(self._location), cause, transient)


class _Command:
    """What a command prints, as a file that fails where the command does, or says nothing."""

    def __init__(self, location: str, timeout: float) -> None:
        from webdataset.gopen import gopen, set_options

        self._pipe = gopen(location, "rb")
        set_options(self._pipe, timeout=timeout)
        self._timeout = timeout
        self._ready = select.poll()
        self._ready.register(self._pipe.stream, select.POLLIN)

    def read(self, count: int) -> bytes:
        if not self._ready.poll(self._timeout * 1000):
            raise TimeoutError
        # The pipe's own read waits for all the bytes, for ever.
        data = os.read(self._pipe.stream.fileno(), count)
        if not data:
            with suppress(OSError):  # whose text is the whole command
                self._pipe.close()
            if self._pipe.status != 0:
                raise subprocess.CalledProcessError(self._pipe.status, "")
        return data

    def close(self) -> None:
        if self._pipe.proc.poll() is None:
            self._pipe.proc.kill()  # else closing waits until it ends by itself
        self._pipe.close()


def _check_opener(location: str) -> None:
    """Raise a ValueError with the remedy where nothing installed opens such a location."""
    scheme = scheme_of(location)
    remedy, program = "", "ais" if scheme == "ais" else "curl"
    if scheme == "hf":
        remedy = "" if find_spec("huggingface_hub") else "pip install huggingface_hub"
    elif scheme in _COMMANDS and scheme != "pipe":
        remedy = "" if shutil.which(program) else f"install the program {program}"
    elif scheme not in ("", *_COMMANDS):
        try:
            fsspec.get_filesystem_class(scheme)
        except ImportError as error:  # its text is fsspec's own remedy
            plugin = _PLUGINS.get(scheme)
            remedy = f"pip install {plugin}" if plugin else str(error)
        except ValueError:
            known = ", ".join(sorted({*fsspec.available_protocols(), *_COMMANDS}))
            remedy = f"webdataset and fsspec open {known}"
    if remedy:
        raise ValueError(
            f"nothing installed opens {name_for_people(location)} (scheme {scheme!r}); {remedy}"
        )


def _open(location: str, offset: int, size: int | None, timeout: float) -> tuple[Any, int]:
    """A file, and the position it is at: the offset or 0."""
    scheme = scheme_of(location)
    if scheme in _COMMANDS:
        return _Command(location, timeout), 0
    if not is_remote(location):
        file = open(local_path(location), "rb", buffering=0)  # noqa: SIM115
        return file, file.seek(offset)
    http = scheme in ("http", "https")
    file_system, path = fsspec.core.url_to_fs(location, **_http_options(timeout) if http else {})
    if http and not offset:
        # One request, whether or not the server knows ranges, and never more than a few 100 KiB in
        # memory. Any size will do to save the request for it: a stream does not use it.
        return file_system.open(path, block_size=0, size=size or 1), 0
    file = file_system.open(path, block_size=_RANGE, **{"size": size} if http else {})
    if not offset:
        return file, 0
    with suppress(ValueError):  # there is no seeking, or the server does not know ranges
        file.seek(offset)
        if file.read(1):
            return file, file.seek(offset)
    file.close()
    return _open(location, 0, size, timeout)


def _http_options(timeout: float) -> dict[str, Any]:
    from aiohttp import ClientTimeout

    return {
        # aiohttp gives up after five minutes otherwise, however well it goes.
        "client_kwargs": {"timeout": ClientTimeout(connect=timeout, sock_read=timeout)},
        "get_client": _http_client,
        # Bytes are counted, and ranges are meant, as they are in the file.
        "headers": {"Accept-Encoding": "identity"},
    }


async def _http_client(**options: Any) -> aiohttp.ClientSession:
    """A client whose connections end with their requests, and that knows the proxy variables.

    A forked process drops the clients it inherits, and with them, in the parent's event queue, the
    parent's idle connections: its next request would then wait for an answer that it never sees.
    """
    from aiohttp import ClientSession, TCPConnector

    return ClientSession(connector=TCPConnector(force_close=True), trust_env=True, **options)


def _is_failure(error: Exception) -> bool:
    """Whether the world is at fault; the others are mistakes in the code, and are let through."""
    kinds = (OSError, EOFError, ValueError, asyncio.TimeoutError)
    return isinstance(error, kinds) or type(error).__module__ != "builtins"


def _explain(error: Exception, timeout: float) -> tuple[str, bool]:
    """What happened, without the error's own text, and whether another attempt may help."""
    # aiohttp's and gcsfs's
    status = error.status if hasattr(error, "status") else getattr(error, "code", None)
    if isinstance(status, int):
        return f"HTTP {status}", status >= 500 or status in (408, 429)
    if isinstance(error, subprocess.CalledProcessError):
        cause = f"the command ended with exit status {error.returncode}"
        return cause, error.returncode not in (126, 127)  # so the shell says: no such program
    if isinstance(error, subprocess.TimeoutExpired):
        return "the command closed its output and did not end", True
    if isinstance(error, (TimeoutError, asyncio.TimeoutError)):  # two classes in Python 3.10
        return f"no answer for {timeout:g} s", True
    if isinstance(error, FileNotFoundError):
        return "no such file", False
    if isinstance(error, OSError) and error.errno in errno.errorcode:
        return os.strerror(error.errno or 0), not isinstance(error, PermissionError)
    if isinstance(error, (PermissionError, ValueError)):  # a wrong URL or certificate, among others
        return type(error).__name__, False
    return f"the connection failed ({type(error).__name__})", True
