"""What misbehaving servers answer, byte by byte: whatever no good server ever sends."""

from __future__ import annotations

import gzip
import itertools
import time
import zlib
from collections.abc import Callable, Iterator
from typing import Any

Blocks = Iterator[bytes | None]

_ZEROS = bytes(1 << 18)
_PAUSE = 0.02  # seconds between the bytes of slow answers


def _head(*lines: str, status: str = "200 OK") -> bytes:
    return "\r\n".join([f"HTTP/1.1 {status}", *lines, "", ""]).encode()


def _with(*lines: str, status: str = "200 OK") -> Callable[[bytes], Blocks]:
    """The file, after such a head; `{n}` in it is the number of bytes."""

    def answer(body: bytes) -> Blocks:
        yield _head(*[line.format(n=len(body)) for line in lines], status=status) + body

    return answer


def gzipped(body: bytes) -> Blocks:
    packed = gzip.compress(body)
    yield _head("Content-Encoding: gzip", f"Content-Length: {len(packed)}") + packed


def bomb(body: bytes) -> Blocks:
    """Zeros without end, a thousandth of them on the wire."""
    yield _head("Content-Encoding: gzip")
    packer = zlib.compressobj(9, wbits=31)
    for _ in itertools.count():
        yield packer.compress(_ZEROS * 16) + packer.flush(zlib.Z_SYNC_FLUSH)


def endless(body: bytes) -> Blocks:
    yield _head("Content-Type: application/x-tar") + body
    yield from itertools.repeat(_ZEROS)


def endless_length(body: bytes) -> Blocks:
    yield _head("Content-Length: 1000000000000000") + body
    yield from itertools.repeat(_ZEROS)


def endless_headers(body: bytes) -> Blocks:
    yield b"HTTP/1.1 200 OK\r\n"
    for number in itertools.count():
        yield f"X-{number}: {'a' * 1000}\r\n".encode()


def huge_header(body: bytes) -> Blocks:
    yield b"HTTP/1.1 200 OK\r\nX-Long: "
    yield from itertools.repeat(b"a" * (1 << 18))


def slow_headers(body: bytes) -> Blocks:
    yield b"HTTP/1.1 200 OK\r\nX-Slow: "
    while True:
        time.sleep(_PAUSE)
        yield b"a"


def continues(body: bytes) -> Blocks:
    yield from itertools.repeat(b"HTTP/1.1 100 Continue\r\n\r\n")


def garbage(body: bytes) -> Blocks:
    yield bytes(range(256)) * 100


def page(body: bytes) -> Blocks:
    """What a login page of a network says instead."""
    text = b"<html><body>Please log in.</body></html>"
    yield _head("Content-Type: text/html", f"Content-Length: {len(text)}") + text


def cut_chunks(body: bytes) -> Blocks:
    yield _head("Transfer-Encoding: chunked")
    half = body[: len(body) // 2]
    yield f"{len(half):x}\r\n".encode() + half + b"\r\n"


def bad_chunks(body: bytes) -> Blocks:
    yield _head("Transfer-Encoding: chunked") + b"no number\r\n" + body


def huge_chunk(body: bytes) -> Blocks:
    yield _head("Transfer-Encoding: chunked") + b"ffffffffffffffff\r\n" + body


def closed(body: bytes) -> Blocks:
    yield from ()


def reset(body: bytes) -> Blocks:
    yield _head(f"Content-Length: {len(body)}") + body[: len(body) // 2]
    yield None


def other_range(body: bytes) -> Blocks:
    """Bytes that nobody has asked for."""
    yield _head(
        f"Content-Range: bytes 5-{len(body) - 1}/{len(body)}",
        f"Content-Length: {len(body) - 5}",
        status="206 Partial Content",
    )
    yield body[5:]


def shifted(body: bytes) -> Blocks:
    """The right length of the wrong bytes."""
    yield _head(f"Content-Length: {len(body)}") + body[5:] + body[:5]


ANSWERS: dict[str, Any] = {
    **{f"status {status}": status for status in (400, 401, 403, 408, 410, 418, 429, 500, 502, 503)},
    "status 404": 404,
    "status 204": _with(status="204 No Content"),
    "status 304": _with(status="304 Not Modified"),
    "cut at once": ("cut", 0),
    "cut in the middle": ("cut", 1000),
    "stalls in the middle": ("stall", 1000),
    "silent": "silent",
    "drips": ("drip", 1000),
    "other bytes": "wrong",
    "more bytes": ("more", 100),
    "redirect to link-local": ("redirect", "http://169.254.169.254/latest/meta-data"),
    "redirect to this machine": ("redirect", "http://127.0.0.1:9/private"),
    "redirect by an obsolete header": ("redirect by URI", "http://127.0.0.1:9/private"),
    "redirect to a file": ("redirect", "file:///etc/passwd"),
    "redirect to FTP": ("redirect", "ftp://127.0.0.1/a"),
    "redirect to nothing": ("redirect", ""),
    "redirect without end": ("redirect", "?again"),
    "length too small": _with("Content-Length: 1000"),
    "length too large": _with("Content-Length: 99{n}"),
    "length below zero": _with("Content-Length: -1"),
    "length no number": _with("Content-Length: many"),
    "two lengths": _with("Content-Length: {n}", "Content-Length: 7"),
    "length zero": _with("Content-Length: 0"),
    "unknown encoding": _with("Content-Encoding: zip", "Content-Length: {n}"),
    "wrongly said to be gzip": _with("Content-Encoding: gzip", "Content-Length: {n}"),
    **{
        function.__name__.replace("_", " "): function
        for function in (
            *(gzipped, bomb, endless, endless_length, endless_headers, huge_header, slow_headers),
            *(continues, garbage, page, cut_chunks, bad_chunks, huge_chunk, closed, reset),
            *(other_range, shifted),
        )
    },
}
"""The name of each kind, and an action of `HttpServer.fail`."""
