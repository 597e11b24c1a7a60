"""Limits of a child, and what files must not make it do: run code, or touch what is elsewhere."""

from __future__ import annotations

import os
import resource
import sys
import sysconfig
from pathlib import Path
from types import CodeType
from typing import Any

MORE_BYTES = 3 << 30
"""Memory that a child may take for its inputs. An image of 89 million pixels needs most of it."""

_STARTS = (
    "os.system",
    "subprocess.Popen",
    "os.exec",
    "os.posix_spawn",
    "os.spawn",
    "os.fork",
    "pty.spawn",
)
_REACHES = (
    "socket.connect",
    "socket.getaddrinfo",
    "urllib.Request",
    "webbrowser.open",
)
_LOADS = ("pickle.find_class", "marshal.loads", "code.__new__")
_CHANGES = ("os.remove", "os.rename", "os.mkdir", "os.rmdir", "os.link", "os.symlink", "os.chmod")
_LEFTOVERS = "/dev/shm/sem.mp-"  # of other processes that were killed; any start removes them
_WRITES = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND
_FOLDERS = {sysconfig.get_path(name) for name in ("stdlib", "platstdlib", "purelib", "platlib")} | {
    str(Path(__file__).parents[3] / name) for name in ("bagnet", "datamodules")
}
_LIBRARIES = (*_FOLDERS, *map(os.path.realpath, _FOLDERS))  # an environment may be a link


class Guard:
    """Notes what happens between its `__enter__` and `__exit__`, in all threads and in forks.

    An audit hook stays as long as the process: use it in a child.

    Args:
        folder: Where everything is allowed to be written.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = os.path.realpath(folder)
        self._armed = False
        self._notes = os.memfd_create("notes")  # forks write there, too
        sys.addaudithook(self._hear)

    @property
    def noted(self) -> list[str]:
        """What must not happen and did, each once."""
        size = os.fstat(self._notes).st_size
        return list(dict.fromkeys(os.pread(self._notes, size, 0).decode().splitlines()))

    def __enter__(self) -> None:
        os.ftruncate(self._notes, 0)
        os.lseek(self._notes, 0, os.SEEK_SET)
        self._armed = True

    def __exit__(self, *_: object) -> None:
        self._armed = False

    def _hear(self, event: str, arguments: tuple[Any, ...]) -> None:
        if not self._armed:
            return
        self._armed = False  # what follows may raise events, too
        try:
            if self._is_forbidden(event, arguments) and not _is_ours(sys._getframe(1).f_code):
                os.write(self._notes, f"{event}{arguments!r:.150}\n".encode(errors="replace"))
        finally:
            self._armed = True

    def _is_forbidden(self, event: str, arguments: tuple[Any, ...]) -> bool:
        if event == "open":
            path, mode, flags = arguments
            writes = (
                any(letter in mode for letter in "wax+")
                if isinstance(mode, str)
                else flags & _WRITES
            )
            return bool(writes) and not self._is_inside(path)
        if event == "os.remove" and os.fsdecode(arguments[0]).startswith(_LEFTOVERS):
            return False
        if event in _CHANGES:
            paths = [each for each in arguments if isinstance(each, str | bytes | Path)]
            return not all(self._is_inside(path, arguments[-1]) for path in paths)
        if event == "exec":
            return not _is_of_a_library(arguments[0], sys._getframe(2).f_code)
        if event == "import":
            return arguments[0] in ("antigravity", "tests.soak.fuzz.planted")
        if event == "marshal.loads":  # compiled modules
            return not sys._getframe(2).f_code.co_filename.startswith("<frozen importlib")
        if event == "ctypes.dlopen":  # libraries look for those of the GPU by their names
            return "/" in str(arguments[0])
        return event in _STARTS or event in _REACHES or event in _LOADS

    def _is_inside(self, path: Any, folder: Any = -1) -> bool:
        if isinstance(path, int):  # a descriptor that is open already
            return True
        base = f"/proc/self/fd/{folder}" if isinstance(folder, int) and folder >= 0 else ""
        real = os.path.realpath(os.path.join(base, os.fsdecode(path)))
        return real == os.devnull or (real + os.sep).startswith(self._folder + os.sep)


def _is_ours(code: CodeType) -> bool:
    """Whether it is the fuzzer itself that does it."""
    return Path(code.co_filename).parent == Path(__file__).parent


def _is_of_a_library(code: Any, caller: CodeType) -> bool:
    """Whether code is that of a module, or what the standard library makes, such as a dataclass."""
    if not isinstance(code, CodeType):
        return False
    texts = (
        (code.co_filename, caller.co_filename)
        if code.co_filename == "<string>"
        else (code.co_filename,)
    )
    return texts[-1].startswith(("<frozen", *_LIBRARIES))


def limit_memory() -> None:
    """Let this process have a few GiB more than it has."""
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    most = pages * resource.getpagesize() + MORE_BYTES
    resource.setrlimit(resource.RLIMIT_AS, (most, most))
