"""Runs the project's commands as real processes, without the seconds that imports take.

They are forked from a server that has imported everything, and each has a process group.
"""

from __future__ import annotations

import atexit
import contextlib
import importlib
import multiprocessing
import os
import re
import signal
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from tests.soak.outcomes import CRASH, LIMIT, SILENT

MODULES = {
    "train": "bagnet.training.command_line.command",
    "pack": "datamodules.pack.__main__",
    "demo": "datamodules.demo.__main__",
    "evidence": "bagnet.evidence.__main__",
    "experiments": "bagnet.experiments.__main__",
}
_PRELOADED = [
    *MODULES.values(),
    *("bagnet.training.command_line.cli", "bagnet.training.classifier", "datamodules.imagenet"),
    *("datamodules.pack.sources.imagefolder", "datamodules.demo.generate", "fsspec", "aiohttp"),
    *("fsspec.implementations.http", "datamodules.remote.dataset", "bagnet.model.sources"),
    *("bagnet.evidence.report.command", "bagnet.predict.command", "bagnet.export.command"),
    *("bagnet.experiments.decisions.accuracy", "torchvision.transforms.v2", "simplejpeg"),
]
_context = multiprocessing.get_context("forkserver")

Command = tuple[str, ...]
"""One of `MODULES`, and its arguments."""


@dataclass
class Ended:
    """How a command ended.

    Args:
        code: Exit status; negative for a signal, None if it was ended after too long.
        said: What it printed.
        seconds: How long it ran.
    """

    code: int | None
    said: str
    seconds: float

    @property
    def errors(self) -> list[str]:
        return re.findall(r"^error: .*", self.said, re.MULTILINE)

    @property
    def grown(self) -> float:
        """Megabytes, if it has printed what `Memory` measured."""
        return max(
            map(float, re.findall(r"^memory: ([\d.]+) MB", self.said, re.MULTILINE)), default=0
        )

    @property
    def last(self) -> str:
        """The last line that it printed, or the last error."""
        lines = self.errors or self.said.strip().splitlines() or [""]
        return f"exit status {self.code}: {lines[-1][:300]}"

    def fault(self, *names: str) -> tuple[str, str] | None:
        """What is wrong with how it failed: it must say one line with one of these words, exit 2.

        Returns:
            The outcome that must not be, and what it was; None if all is as promised.
        """
        if self.code is None:
            return LIMIT, f"no end within {self.seconds:.0f} s, {self.last}"
        if "Traceback" in self.said or self.code < 0 or self.code not in (0, 2):
            return CRASH, self.last
        if self.code == 0 or len(self.errors) != 1:
            return SILENT, f"exit status {self.code}, {len(self.errors)} errors: {self.errors}"
        if not any(name in self.errors[0] for name in names):
            return SILENT, f"without the cause: {self.errors[0][:300]}"
        return None


class Memory:
    """How much memory this process takes beyond what it has now, at its peak."""

    def __init__(self) -> None:
        Path("/proc/self/clear_refs").write_text("5")  # the peak begins anew
        self._before = self._peak()

    def grown(self) -> float:
        """Megabytes."""
        return (self._peak() - self._before) / 1000

    def _peak(self) -> float:
        status = Path("/proc/self/status").read_text()
        return float(re.search(r"VmHWM:\s+(\d+)", status)[1])


def run(
    command: Command,
    folder: Path,
    before: Callable[[], object] | None = None,
    seconds: float = 120.0,
    variables: Mapping[str, str] | None = None,
) -> Ended:
    """Run a command to its end.

    Args:
        command: The command.
        folder: Where it runs; what it says goes to a file beside this folder.
        before: Called in its process before it starts, such as to set a limit.
        seconds: How long it may take.
        variables: Of its environment.
    """
    return call(partial(_main, command, before), folder, seconds, variables)


def call(
    function: Callable[[], int],
    folder: Path,
    seconds: float = 120.0,
    variables: Mapping[str, str] | None = None,
) -> Ended:
    """Like `run`, for a function that returns the exit status."""
    _context.set_forkserver_preload(_PRELOADED)
    said, status = (folder.with_name(f"{folder.name}.{each}") for each in ("said", "status"))
    status.unlink(missing_ok=True)
    arguments = (function, folder, said, status, dict(variables or {}))
    process = _context.Process(target=_become, args=arguments)
    process.start()
    began = time.monotonic()
    process.join(seconds)
    code = process.exitcode
    if code is not None and status.exists():  # multiprocessing loses it if threads wait at once
        code = int(status.read_text())
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)  # with all that it has started
    process.kill()  # if it has no group yet
    process.join()
    text = said.read_text(errors="replace") if said.exists() else ""
    return Ended(code, text, time.monotonic() - began)


def _main(command: Command, before: Callable[[], object] | None) -> int:
    name, *words = command
    main: Callable[[Sequence[str]], int] = importlib.import_module(MODULES[name]).main
    sys.argv = [f"{name}.py", *words]
    if before is not None:
        before()
    return main(words)


def _become(
    function: Callable[[], int],
    folder: Path,
    said: Path,
    status: Path,
    variables: Mapping[str, str],
) -> None:
    os.setsid()
    atexit._clear()  # what the server will do at its end, such as remove temporary folders
    file = os.open(said, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    os.dup2(file, 1)
    os.dup2(file, 2)
    sys.stdout, sys.stderr = (os.fdopen(number, "w", buffering=1) for number in (1, 2))
    os.chdir(folder)
    os.environ.update({"OMP_NUM_THREADS": "1", "WANDB_MODE": "disabled", **variables})
    try:
        code = function()
    except SystemExit as end:
        code = end.code if isinstance(end.code, int) else 1
    atexit._run_exitfuncs()  # multiprocessing leaves it out
    status.write_text(str(code))
    sys.exit(code)
