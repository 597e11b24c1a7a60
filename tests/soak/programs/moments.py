"""Moments in which a program changes a file, and what strikes it there.

A process counts its own moments of each kind: a kind is what is done (write, fsync, replace, link,
remove) to which file. A write is struck when half of it is in the file; all else before or after.
"""

from __future__ import annotations

import builtins
import io
import json
import os
import re
import signal
import socket
import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

VARIABLE = "SOAK_MOMENTS"
"""Environment variable: JSON of `Plan`."""


class Moment(NamedTuple):
    """A kind of moments, and which of them.

    Attributes:
        what: What is done to a file, such as `replace`.
        file: The name of the file, without what differs from run to run.
        number: 1 for the first one of this kind in a process.
    """

    what: str
    file: str
    number: int = 1


class Plan(NamedTuple):
    """What to do at moments.

    Attributes:
        record: A file that gets each moment, as a line of JSON.
        moment: When to strike.
        after: Whether right after the moment, instead of before.
        signals: What strikes.
        everyone: Whether it strikes all processes of the group, or only this one.
    """

    record: str | None = None
    moment: Moment | None = None
    after: bool = False
    signals: tuple[int, ...] = (signal.SIGKILL,)
    everyone: bool = False

    def as_variable(self) -> dict[str, str]:
        return {VARIABLE: json.dumps(self)}


_STEP = 2**15
_seen: Counter[tuple[str, str]] = Counter()
_plan = Plan()
_folder = ""
_write = os.write


def install() -> None:
    """Watch the files below the current folder, if the environment has a plan."""
    global _plan, _folder
    if VARIABLE not in os.environ:
        return
    record, moment, *more = json.loads(os.environ[VARIABLE])
    _plan = Plan(record, Moment(*moment) if moment else None, *more)
    _folder = os.getcwd()
    _seen.clear()
    for name in ("replace", "rename", "link", "unlink", "remove", "fsync"):
        setattr(os, name, _watched(name.replace("unlink", "remove"), getattr(os, name)))
    os.write = _write_and_watch
    io.open = builtins.open = _open_and_watch(io.open)  # type: ignore[assignment]
    if parquet := sys.modules.get("pyarrow.parquet"):
        parquet.write_table = _write_table(parquet.write_table)


def name_of(path: Any, folder: int | None = None) -> str | None:
    """The name of a file in the folder, as in `Moment.file`; None for any other file.

    Args:
        path: Its path, or the number of an open file.
        folder: Where the path begins, the number of an open folder; None for the current folder.
    """
    try:
        beginning = f"/proc/self/fd/{folder}" if folder is not None else "."
        path = os.readlink(f"/proc/self/fd/{path}") if isinstance(path, int) else os.fspath(path)
        if not os.path.isabs(os.fsdecode(path)):
            path = os.path.join(os.path.realpath(beginning), os.fsdecode(path))
    except OSError:
        return None
    path = os.path.normpath(os.fsdecode(path))
    if not path.startswith(f"{_folder}/") or ":[" in path:  # as in pipe:[123]
        return None
    return re.sub(r"\d+", "#", Path(path).name.replace(socket.gethostname(), "HOST"))


def _passes(what: str, path: Any, is_after: bool | None, folder: int | None = None) -> None:
    """Count a moment, and strike if it is the one; None for a moment that has no before."""
    name = name_of(path, folder)
    if name is None:
        return
    if not is_after:
        _seen[what, name] += 1
        if _plan.record:
            _note(json.dumps([what, name, _seen[what, name]]))
    moment = Moment(what, name, _seen[what, name])
    if moment == _plan.moment and is_after in (None, _plan.after):
        for number in _plan.signals:
            if _plan.everyone:
                os.killpg(0, number)
            else:
                os.kill(os.getpid(), number)


def _note(line: str) -> None:
    assert _plan.record
    file = os.open(_plan.record, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o666)
    _write(file, f"{line}\n".encode())
    os.close(file)


def _watched(what: str, function: Callable[..., Any]) -> Callable[..., Any]:
    def call(*arguments: Any, **options: Any) -> Any:
        path = arguments[1] if what in ("replace", "rename", "link") else arguments[0]
        folder = options.get("dir_fd")
        _passes(what, path, False, folder)
        result = function(*arguments, **options)
        _passes(what, path, True, folder)
        return result

    return call


def _write_and_watch(file: int, data: Any) -> int:
    if name_of(file) is None:
        return _write(file, data)
    half = len(data) // 2
    written = _write(file, data[:half])
    _passes("write", file, None)
    return written + _write(file, data[half:])


def _write_table(function: Callable[..., None]) -> Callable[..., None]:
    """Of a file that Arrow writes, half."""

    def write(table: Any, where: Any, *arguments: Any, **options: Any) -> None:
        function(table, where, *arguments, **options)
        whole = Path(where).read_bytes()
        os.truncate(where, len(whole) // 2)
        _passes("write", where, None)
        Path(where).write_bytes(whole)

    return write


def _open_and_watch(function: Callable[..., Any]) -> Callable[..., Any]:
    def opened(file: Any, mode: str = "r", *arguments: Any, **options: Any) -> Any:
        result = function(file, mode, *arguments, **options)
        is_ours = set(mode) & set("wax+") and name_of(file) is not None
        return _File(result, file) if is_ours else result

    return opened


class _File:
    """An open file whose writes are watched: the first one, and one in each `_STEP` bytes."""

    def __init__(self, file: Any, path: Any) -> None:
        self._file, self._path, self._written = file, path, 0

    def write(self, data: Any) -> int:
        before, self._written = self._written, self._written + len(data)
        if before and before // _STEP == self._written // _STEP:
            return int(self._file.write(data))
        half = len(data) // 2
        written = int(self._file.write(data[:half]))
        self._file.flush()
        _passes("write", self._path, None)
        return written + int(self._file.write(data[half:]))

    def __getattr__(self, name: str) -> Any:
        return getattr(self._file, name)

    def __iter__(self) -> Any:
        return iter(self._file)

    def __enter__(self) -> _File:
        self._file.__enter__()
        return self

    def __exit__(self, *reason: Any) -> None:
        self._file.__exit__(*reason)
