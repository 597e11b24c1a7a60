"""Opens what webdataset and fsspec open: commands, HTTP, object storage, local files."""

from __future__ import annotations

import asyncio
import os
import select
import shutil
import subprocess
from contextlib import suppress
from typing import TYPE_CHECKING, Any

import fsspec
import fsspec.core

from datamodules.common.reading import plain
from datamodules.remote.redirects import guard
from datamodules.remote.urls import is_remote, local_path, redacted, scheme_of

if TYPE_CHECKING:
    import aiohttp

_VERSIONS = ("blob_id", "ETag", "etag", "md5Hash", "created", "LastModified", "mtime")
"""What storages call the facts that change when a file changes."""

SLOWEST = 16 << 10
"""Bytes a second from a source that is not abandoned: ImageNet would take 100 days."""
_LONGEST = 3600.0  # seconds for a part of a file that is read in any order
_RANGE = 8 << 20  # bytes per request if a file is read by ranges: 14 for a shard of 110 MB
_COMMANDS = ("pipe", "ais", "htgs", "sftp", "scp", "ftps")  # run by webdataset
_STREAMS = ("http", "https", "hf")  # a whole file is one request to these, and not one per range


def check_opener(location: str) -> None:
    """Check that something installed opens such a location.

    Raises:
        ValueError: Nothing does; the message has the remedy.
    """
    scheme = scheme_of(location)
    remedy, program = "", "ais" if scheme == "ais" else "curl"
    if scheme in _COMMANDS and scheme != "pipe":
        remedy = "" if shutil.which(program) else f"install the program {program}"
    elif scheme not in ("", *_COMMANDS):
        try:
            fsspec.get_filesystem_class(scheme)
        except ImportError as error:  # such as "Install s3fs to access S3"
            remedy = "pip install huggingface_hub" if scheme == "hf" else str(error)
        except ValueError:
            known = ", ".join(sorted({*fsspec.available_protocols(), *_COMMANDS}))
            remedy = f"webdataset and fsspec open {known}"
    if remedy:
        raise ValueError(
            f"nothing installed opens {redacted(location)} (scheme {scheme!r}); {remedy}"
        )


def has_folders(location: str) -> bool:
    """Whether it is in a storage that lists its folders: not a web server, and not a command."""
    return is_remote(location) and scheme_of(location) not in ("http", "https", *_COMMANDS)


def list_files(location: str) -> list[str]:
    """URLs of the files below a remote folder, or that match a pattern with `*`."""
    file_system, path = fsspec.core.url_to_fs(location)
    found = file_system.glob(path) if "*" in path else file_system.find(path)
    return [file_system.unstrip_protocol(each) for each in found]


def open_anywhere(location: str, timeout: float) -> tuple[Any, object]:
    """Open a file to read it in any order, each part by a request; and what tells its version."""
    if not is_remote(location):
        file = open(local_path(location), "rb", opener=plain)  # noqa: SIM115
        return file, os.fstat(file.fileno()).st_mtime_ns
    http = scheme_of(location) in ("http", "https")
    options = _http_options(timeout, _LONGEST) if http else {}
    file_system, path = fsspec.core.url_to_fs(location, **options)
    facts = file_system.info(path)
    version = next((str(facts[name]) for name in _VERSIONS if facts.get(name)), "")
    return file_system.open(path, cache_type="none"), (facts["size"], version)


def open_at(location: str, offset: int, size: int | None, timeout: float) -> tuple[Any, int]:
    """Open a file at an offset, or at 0 if the source cannot seek; returns it and its position.

    Args:
        location: A path, a URL, or `pipe:` and a shell command.
        offset: Where to begin, in bytes.
        size: Bytes of the whole file, if known, which saves a request.
        timeout: Seconds to wait for the next byte over HTTP and from commands. Other storage has
            settings of its own, such as HF_HUB_DOWNLOAD_TIMEOUT.
    """
    scheme = scheme_of(location)
    if scheme in _COMMANDS:
        return _Command(location, timeout), 0
    if not is_remote(location):
        file = open(local_path(location), "rb", 0, opener=plain)  # noqa: SIM115
        return file, file.seek(offset)
    http = scheme in ("http", "https")
    streams = scheme in _STREAMS and not offset
    options = _http_options(timeout, None if streams else timeout + _RANGE / SLOWEST)
    file_system, path = fsspec.core.url_to_fs(location, **options if http else {})
    if streams:
        # One request, whether or not the server supports ranges, and never more than a few 100 KiB
        # in memory. A stream does not use the size, so any will do to save the request for it.
        return file_system.open(path, block_size=0, size=size or 1), 0
    file = file_system.open(path, block_size=_RANGE, **{"size": size} if http else {})
    if not offset:
        return file, 0
    with suppress(ValueError):  # the file cannot seek, or the server does not support ranges
        file.seek(offset)
        if file.read(1):
            return file, file.seek(offset)
    file.close()
    return open_at(location, 0, size, timeout)


class _Command:
    """The output of a command as a file, which fails if the command fails or says nothing."""

    def __init__(self, location: str, timeout: float) -> None:
        from webdataset.gopen import gopen, set_options

        self._pipe, self._timeout = gopen(location, "rb"), timeout
        set_options(self._pipe, timeout=timeout)
        self._ready = select.poll()
        self._ready.register(self._pipe.stream, select.POLLIN)

    def read(self, count: int) -> bytes:
        if not self._ready.poll(self._timeout * 1000):
            raise TimeoutError
        # The pipe's own read would wait for all the bytes, without a timeout.
        data = os.read(self._pipe.stream.fileno(), count)
        if not data:
            with suppress(OSError):  # its text is the whole command
                self._pipe.close()
            if self._pipe.status != 0:
                raise subprocess.CalledProcessError(self._pipe.status, "")
        return data

    def close(self) -> None:
        if self._pipe.proc.poll() is None:
            self._pipe.proc.kill()  # else closing waits until it ends by itself
        self._pipe.close()


def _http_options(timeout: float, longest: float | None) -> dict[str, Any]:
    """How fsspec opens HTTP, with limits in seconds: for the next byte, and for a whole request."""
    from aiohttp import ClientTimeout

    return {
        # By default aiohttp gives up after five minutes, even while bytes arrive.
        "client_kwargs": {"timeout": ClientTimeout(longest, connect=timeout, sock_read=timeout)},
        "get_client": _http_client,
        # Bytes are counted and ranges are requested as they are in the file.
        "headers": {"Accept-Encoding": "identity"},
    }


async def _http_client(timeout: aiohttp.ClientTimeout, **options: Any) -> aiohttp.ClientSession:
    """A client whose connections end with their requests, and that knows the proxy variables.

    aiohttp limits the time for a byte, and for a whole answer, but not that for the headers: a
    server that sends them a byte at a time would never be given up.

    A forked process drops the clients it inherits, and with them, in the parent's event queue, the
    parent's idle connections: its next request would then wait for an answer that it never sees.
    """
    from aiohttp import ClientSession, TCPConnector

    async def begins_in_time(
        request: aiohttp.ClientRequest, send: aiohttp.ClientHandlerType
    ) -> aiohttp.ClientResponse:
        return await asyncio.wait_for(send(request), timeout.sock_read)

    return ClientSession(
        connector=TCPConnector(force_close=True),
        trust_env=True,
        trace_configs=[guard()],
        middlewares=[begins_in_time],
        timeout=timeout,
        **options,
    )
