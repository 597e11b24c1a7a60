"""Loaders of small data, and a real HTTP server that fails on request."""

from __future__ import annotations

import socket
import threading
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from tests.datamodules.loaders import contents, training_loaders, write_data
from tests.datamodules.splits import write_splits


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return write_data(tmp_path_factory.mktemp("data") / "train")


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    return write_splits(tmp_path_factory.mktemp("packed"))


@pytest.fixture
def train(folder):
    """Makes training loaders. Stops their workers at the end."""
    with training_loaders(folder) as make:
        yield make


@pytest.fixture
def reference(train):
    """Two epochs, read in this process."""
    loader = train()
    return [contents(loader) for _ in range(2)]


@dataclass
class Request:
    """A GET: its path without the query, its Range header, and the bytes of body sent for it."""

    path: str
    range: str | None
    sent: int = 0


@dataclass
class HttpServer:
    """Serves the files of `root` under `url`.

    `ranges`, `lengths` and `pause` (seconds after each 64 KiB) apply to all answers.
    """

    url: str
    root: Path
    requests: list[Request] = field(default_factory=list)
    ranges: bool = True
    lengths: bool = True
    pause: float = 0.0
    stopped: threading.Event = field(default_factory=threading.Event)
    _scripts: dict[str, list[Any]] = field(default_factory=lambda: defaultdict(list))

    def fail(self, path: str, *actions: Any) -> None:
        """Set what the next GETs of a path such as "/a.tar" receive, one action for each of them.

        An action is a status such as 503; ("cut", n): the connection breaks after n bytes of body;
        ("stall", n): nothing follows n bytes, but the connection stays open; "wrong": the right
        number of wrong bytes; ("more", n): n bytes more than the file has; "silent": not even a
        status; None: the file.
        """
        self._scripts[path].extend(actions)

    def next_action(self, path: str) -> Any:
        return self._scripts[path].pop(0) if self._scripts[path] else None

    def transfers(self, path: str) -> list[tuple[str | None, int]]:
        """(range, bytes sent) of all requests of a path."""
        return [(request.range, request.sent) for request in self.requests if request.path == path]


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        server: HttpServer = self.server.state
        path = self.path.partition("?")[0]
        request = Request(path, self.headers["Range"])
        server.requests.append(request)
        action = server.next_action(path)
        kind, count = action if isinstance(action, tuple) else (action, 0)
        file = server.root / path.lstrip("/")
        if isinstance(kind, int) or not file.is_file():
            self.send_error(kind if isinstance(kind, int) else 404)
            return
        if kind == "silent":
            server.stopped.wait(30)
            return
        body, status = file.read_bytes(), 200
        if kind == "wrong":
            body = bytes(byte ^ 255 for byte in body)
        if kind == "more":
            body += bytes(count)
        total = len(body)
        if request.range and server.ranges:
            first, last = (int(n) for n in request.range.removeprefix("bytes=").split("-"))
            if first >= total:
                self.send_error(416)
                return
            body, status = body[first : last + 1], 206
        self.send_response(status)
        if status == 206:
            self.send_header("Content-Range", f"bytes {first}-{first + len(body) - 1}/{total}")
        if server.lengths:
            self.send_header("Content-Length", str(len(body)))
        else:
            self.close_connection = True
        self.end_headers()
        self._send(body[:count] if kind in ("cut", "stall") else body, request)
        if kind == "stall":
            server.stopped.wait(30)
        if kind == "cut":  # shut down, because a forked test process may have the socket open too
            self.connection.shutdown(socket.SHUT_RDWR)
            self.close_connection = True

    def do_HEAD(self) -> None:
        self.send_error(405)  # as for a URL that is signed for GET only

    def _send(self, body: bytes, request: Request) -> None:
        for start in range(0, len(body), 1 << 16):
            block = body[start : start + (1 << 16)]
            request.sent += len(block)  # before the client has it, and its test checks
            self.wfile.write(block)
            if self.server.state.pause:
                self.server.state.stopped.wait(self.server.state.pause)

    def log_message(self, *_: Any) -> None:
        pass


class _Server(ThreadingHTTPServer):
    request_queue_size = 64

    def handle_error(self, *_: Any) -> None:
        """Ignore clients that disappear, because the tests kill some."""


@pytest.fixture
def http_server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[HttpServer]:
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    server = _Server(("127.0.0.1", 0), _Handler)
    root = tmp_path / "served"
    root.mkdir()
    state = server.state = HttpServer(f"http://127.0.0.1:{server.server_port}", root)
    thread = threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True)
    thread.start()
    yield state
    state.stopped.set()
    server.shutdown()
    server.server_close()
    thread.join()
