"""The server behind `started.py`: forks programs from a process that has imported everything.

A program then starts in a moment, and otherwise runs as if started from a shell. What it starts
itself with Python (ranks, data workers, multiprocessing's own) comes from spare processes, which
are its children and wait until they are needed, because only a child can be waited for.
"""

from __future__ import annotations

import atexit
import ctypes
import fcntl
import gc
import importlib
import json
import multiprocessing.util
import os
import runpy
import signal
import socket
import subprocess
import sys
import threading
import traceback
import weakref
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, NoReturn
from unittest.mock import patch

from tests.soak.programs import moments

NOTES = "SOAK_PROCESSES"
"""Environment variable: a file that gets a line of JSON for each process of a program."""

_PRELOADED = (
    *("bagnet.training.command_line.cli", "bagnet.training.classifier", "datamodules.imagenet"),
    *("bagnet.training.command_line.command", "bagnet.experiments.decisions.accuracy"),
    *("datamodules.pack.__main__", "datamodules.pack.sources.imagefolder", "bagnet.run.lease"),
    *("torch._dynamo", "torch.distributed.run", "torchvision.transforms.v2", "webdataset"),
    *("wandb", "wandb.sdk.wandb_run", "fsspec", "requests", "simplejpeg", "matplotlib.pyplot"),
    *("PIL.BmpImagePlugin", "PIL.GifImagePlugin", "PIL.PpmImagePlugin", "pyarrow.parquet"),
)
_DIE_WITH_PARENT = 1  # prctl's PR_SET_PDEATHSIG
_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2)
_HIGH = 200  # numbers of open files that nothing uses

_spares: list[tuple[int, socket.socket]] = []


def main() -> None:
    """Read requests from stdin, one a line; answer each with a process id and its exit status."""
    # Before modules are imported that keep it under a name of their own.
    subprocess.Popen = _Popen  # type: ignore[misc]
    multiprocessing.util.spawnv_passfds = _spawn  # type: ignore[assignment]
    if "--bare" not in sys.argv:
        _preload()
    requests, answers = os.fdopen(os.dup(0)), os.dup(1)
    while line := requests.readline():
        process = os.fork()
        if not process:
            os.close(requests.fileno())
            os.close(answers)
            os.setsid()
            ctypes.CDLL(None).prctl(_DIE_WITH_PARENT, signal.SIGKILL)
            signal.signal(signal.SIGINT, signal.default_int_handler)
            _become(**json.loads(line))
        os.write(answers, f"{process}\n".encode())
        _, status = os.waitpid(process, 0)
        os.write(answers, f"{os.waitstatus_to_exitcode(status)}\n".encode())


def _preload() -> None:
    with patch("atexit.register"):  # or it would print a page about memory at the end of a program
        importlib.import_module("triton")
    for name in _PRELOADED:
        importlib.import_module(name)
    gc.freeze()  # or a collection in a child would copy all of it
    threads = [Path(task, "comm").read_text() for task in Path("/proc/self/task").iterdir()]
    # Arrow's memory has a thread that knows of forks.
    assert set(threads[1:]) <= {"jemalloc_bg_thd\n"}, "a fork would copy locks that threads hold"


def _become(
    words: list[str], folder: str, variables: Mapping[str, str], spares: int, log: str = ""
) -> NoReturn:
    """Run a program in this process, which ends with it.

    Args:
        words: What follows `python` on a command line: a file; `-m` and a module; `-c` and code.
        folder: Where it runs.
        variables: Its whole environment.
        spares: Python processes that it may start, and each of those half as many.
        log: Where its output goes, unless it is its parent's.
    """
    if log:
        os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
        output = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o666)
        os.dup2(output, 1)
        os.dup2(output, 2)
        os.close(output)
    os.chdir(folder)
    os.environ.clear()
    os.environ.update(variables)
    weakref.finalize._registry.clear()  # type: ignore[attr-defined]  # the server's
    if wandb := sys.modules.get("wandb.sdk.data_types._private"):
        Path(wandb.MEDIA_TMP.name).mkdir(exist_ok=True)  # a program removes it at its end
    _spares.clear()
    for _ in range(spares):
        _spares.append(_spare(spares // 2))
    if NOTES in variables:
        note = {
            "pid": os.getpid(),
            "rank": int(variables.get("LOCAL_RANK", 0)),
            "words": words,
            "spares": [process for process, _ in _spares],
        }
        with open(variables[NOTES], "a") as notes:
            notes.write(json.dumps(note) + "\n")
    moments.install()
    _end(_run([word for word in words if word not in ("-u", "-B")]))


def _run(words: list[str]) -> int:
    """Run a program and return its exit status."""
    kind, *rest = words
    try:
        if kind == "-c":
            sys.argv = ["-c", *rest[1:]]
            exec(rest[0], {"__name__": "__main__"})
        elif kind == "-m":
            sys.argv = rest
            runpy.run_module(rest[0], run_name="__main__", alter_sys=True)
        else:
            sys.argv = words
            runpy.run_path(kind, run_name="__main__")
    except SystemExit as end:
        if not isinstance(end.code, int | None):
            print(end.code, file=sys.stderr)
        return end.code if isinstance(end.code, int) else int(end.code is not None)
    except BaseException:
        traceback.print_exc()
        return 1
    return 0


def _end(code: int) -> NoReturn:
    """End this process as Python does, but for a second in which it would clear its memory."""
    threading._shutdown()  # type: ignore[attr-defined]
    atexit._run_exitfuncs()
    for stream in (sys.stdout, sys.stderr):
        with suppress(ValueError):  # it is closed
            stream.flush()
    os._exit(code)


def _spare(spares: int) -> tuple[int, socket.socket]:
    """Fork a process that waits to become a program."""
    ours, theirs = socket.socketpair()
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, _SIGNALS)  # none comes within the fork
    process = os.fork()
    if process:
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)
        theirs.close()
        return process, ours
    for channel in (ours, *(other for _, other in _spares)):
        channel.close()
    for number in _SIGNALS:  # it is not there yet, for the others
        signal.signal(number, signal.SIG_IGN)
    signal.pthread_sigmask(signal.SIG_SETMASK, mask)
    data, arrived, _, _ = socket.recv_fds(theirs, 2**20, 64)
    if not data:  # the parent has ended
        os._exit(0)
    theirs.close()
    request = json.loads(data)
    if request.pop("session"):
        os.setsid()
    files = [fcntl.fcntl(number, fcntl.F_DUPFD, _HIGH) for number in arrived]
    for number in arrived:
        os.close(number)
    for number, place in zip(files, request.pop("files"), strict=True):
        os.dup2(number, place)
        os.close(number)
    ignored, blocked = request.pop("ignored"), request.pop("blocked")
    for number in set(_SIGNALS) - set(ignored):
        is_ctrl_c = number == signal.SIGINT
        signal.signal(number, signal.default_int_handler if is_ctrl_c else signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_SETMASK, blocked)
    _become(**request, spares=spares)


def _start(
    words: Sequence[str],
    folder: str | None,
    variables: Mapping[str, str] | None,
    session: bool,
    files: Sequence[int] = (),
) -> int:
    """Let a spare process become a program that has these open files; return its id."""
    assert _spares, "too few spare processes"
    process, channel = _spares.pop(0)
    request = {
        "words": [os.fsdecode(word) for word in words],
        "folder": folder or os.getcwd(),
        "variables": dict(os.environ if variables is None else variables),
        "session": session,
        "files": list(files),
        "ignored": [n for n in _SIGNALS if signal.getsignal(n) == signal.SIG_IGN],
        "blocked": [int(n) for n in signal.pthread_sigmask(signal.SIG_BLOCK, [])],
    }
    socket.send_fds(channel, [json.dumps(request).encode()], list(files))
    channel.close()
    return process


class _Popen(subprocess.Popen):  # type: ignore[type-arg]
    """Starts Python programs from spare processes, and all others as usual."""

    def __init__(self, args: Any, *more: Any, **options: Any) -> None:
        piped = any(options.get(name) is not None for name in ("stdin", "stdout", "stderr"))
        if more or piped or isinstance(args, str) or args[0] != sys.executable:
            super().__init__(args, *more, **options)
            return
        self.args, self.returncode = args, None
        self.stdin = self.stdout = self.stderr = None
        self._waitpid_lock, self._child_created = threading.Lock(), True
        self._communication_started, self._sigint_wait_secs = False, 0.25
        session = bool(options.get("start_new_session"))
        self.pid = _start(args[1:], options.get("cwd"), options.get("env"), session)


def _spawn(path: Any, words: Sequence[str], files: Sequence[int]) -> int:
    """In place of multiprocessing's own function, which also starts its helpers."""
    return _start(words[1:], None, None, False, sorted(map(int, files)))


if __name__ == "__main__":
    main()
