"""A real HTTP server that fails on request, and one that answers like the Hugging Face Hub."""

from __future__ import annotations

import contextlib
import hashlib
import json
import socket
import threading
from base64 import b64encode
from collections import defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any


@dataclass
class Request:
    """A GET: its path without the query, its Range header, and the bytes of body sent for it."""

    path: str
    range: str | None
    sent: int = 0


@dataclass
class HttpServer:
    """Serves the files of `root` under `url`.

    `ranges`, `lengths` and `pause` (seconds after each 64 KiB) apply to all answers. With `login`
    (USER:PASSWORD), whoever does not give it receives 401.
    """

    url: str
    root: Path
    requests: list[Request] = field(default_factory=list)
    ranges: bool = True
    lengths: bool = True
    pause: float = 0.0
    login: str | None = None
    stopped: threading.Event = field(default_factory=threading.Event)
    _scripts: dict[str, list[Any]] = field(default_factory=lambda: defaultdict(list))

    def fail(self, path: str, *actions: Any) -> None:
        """Set what the next GETs of a path such as "/a.tar" receive, one action for each of them.

        An action is a status such as 503; ("cut", n): the connection breaks after n bytes of body;
        ("stall", n): nothing follows n bytes, but the connection stays open; "wrong": the right
        number of wrong bytes; ("more", n): n bytes more than the file has; "silent": not even a
        status; ("drip", n): n bytes, and then one now and then; ("redirect", URL), or with an
        obsolete header ("redirect by URI", URL); None: the file; a function: what it yields for the
        file's bytes is the whole answer, where None resets the connection.
        """
        self._scripts[path].extend(actions)

    def heal(self, path: str) -> None:
        """Answer the next GETs of a path as a good server does."""
        self._scripts[path].clear()

    def next_action(self, path: str) -> Any:
        return self._scripts[path].pop(0) if self._scripts[path] else None

    def transfers(self, path: str) -> list[tuple[str | None, int]]:
        """(range, bytes sent) of all requests of a path."""
        return [(request.range, request.sent) for request in self.requests if request.path == path]


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        server: HttpServer = self.server.state
        path = self.path.partition("?")[0]
        request = Request(path, self.headers["Range"])
        server.requests.append(request)
        given = self.headers["Authorization"] or ""
        if server.login and given != f"Basic {b64encode(server.login.encode()).decode()}":
            self.send_error(401)
            return
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
        if callable(kind):
            self._send_raw(kind(body))
            return
        if kind in ("redirect", "redirect by URI"):
            self.send_response(302)
            self.send_header("Location" if kind == "redirect" else "URI", count)
            self.send_header("Content-Length", "0")
            self.end_headers()
            return
        if kind == "wrong":
            body = bytes(byte ^ 255 for byte in body)
        if kind == "more":
            body += bytes(count)
        total = len(body)
        if request.range and server.ranges:
            begin, _, end = request.range.removeprefix("bytes=").partition("-")
            first, last = int(begin), int(end or total - 1)
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
        self._send(body[:count] if kind in ("cut", "stall", "drip") else body, request)
        for number in range(count, len(body) if kind == "drip" else 0):
            server.stopped.wait(0.02)
            self._send(body[number : number + 1], request)
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

    def _send_raw(self, blocks: Iterable[bytes | None]) -> None:
        self.close_connection = True
        for block in blocks:
            if block is None:
                self.connection.setsockopt(
                    socket.SOL_SOCKET, socket.SO_LINGER, bytes([1] + [0] * 7)
                )
                self.connection.close()
                return
            self.wfile.write(block)
            if self.server.state.stopped.is_set():
                return

    def log_message(self, *_: Any) -> None:
        pass


class _Server(ThreadingHTTPServer):
    request_queue_size = 64

    def handle_error(self, *_: Any) -> None:
        """Ignore clients that disappear, because the tests kill some."""


class HubHandler(Handler):
    """Has one repository, `datasets/org/name`, whose files are in the root's `files`.

    Answers with what `huggingface_hub` asks for: that the repository exists, what is in a folder,
    and bytes of a file.
    """

    REPOSITORY = "/datasets/org/name"

    def do_GET(self) -> None:
        path = self.path.partition("?")[0]
        api, resolve = f"/api{self.REPOSITORY}", f"{self.REPOSITORY}/resolve/main"
        tree = f"{api}/tree/main"
        if path in (api, f"{api}/revision/main"):
            self._answer({"id": "org/name", "sha": "0" * 40, "siblings": [], "tags": []})
        elif path.startswith(tree):
            self._list(path.removeprefix(tree).strip("/"))
        else:
            if path.startswith(resolve):
                self.path = f"/files{path.removeprefix(resolve)}"
            super().do_GET()

    def _list(self, folder: str) -> None:
        files = self.server.state.root / "files"
        pattern = "**/*" if "recursive=true" in self.path.lower() else "*"
        entries = []
        for path in sorted((files / folder).glob(pattern)):
            about = {"type": "directory", "oid": "0" * 40, "size": 0}
            if path.is_file():
                oid = hashlib.sha1(path.read_bytes()).hexdigest()
                about = {"type": "file", "oid": oid, "size": path.stat().st_size}
            entries.append({**about, "path": str(path.relative_to(files))})
        if (files / folder).is_dir():
            self._answer(entries)
        else:
            self._answer({"error": "no such folder"}, 404, "EntryNotFound")

    def _answer(self, content: Any, status: int = 200, error: str = "") -> None:
        body = json.dumps(content).encode()
        self.send_response(status)
        if error:
            self.send_header("X-Error-Code", error)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)


@contextlib.contextmanager
def serving(root: Path, handler: type[Handler] = Handler) -> Iterator[HttpServer]:
    """A server in a thread of this process."""
    root.mkdir()
    server = _Server(("127.0.0.1", 0), handler)
    state = server.state = HttpServer(f"http://127.0.0.1:{server.server_port}", root)
    thread = threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True)
    thread.start()
    yield state
    state.stopped.set()
    server.shutdown()
    server.server_close()
    thread.join()
