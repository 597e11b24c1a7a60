"""Starts programs as real processes, without the seconds that Python takes to import torch."""

from __future__ import annotations

import json
import os
import select
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any

from tests.soak.programs.server import NOTES

REPOSITORY = Path(__file__).parents[3]
TRAIN = str(REPOSITORY / "train.py")
SECONDS_TO_END = 60.0
"""For what a program that was killed has started."""
PATIENCE = 300.0
"""Seconds to wait for anything that takes a few seconds on an idle machine."""


class Programs:
    """A server that starts one program at a time; as a context manager, it ends with the context.

    A program is killed when the server ends.

    Args:
        bare: Whether the server imports nothing, so it starts at once.
    """

    def __init__(self, bare: bool = False) -> None:
        self._server = subprocess.Popen(
            [sys.executable, "-m", "tests.soak.programs.server", *["--bare"] * bare],
            cwd=REPOSITORY,
            env={**os.environ, "OMP_NUM_THREADS": "1", "MPLBACKEND": "agg"},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )

    def __enter__(self) -> Programs:
        return self

    def __exit__(
        self, kind: type | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._server.kill()
        self._server.communicate()

    def start(self, folder: Path, *words: str, spares: int = 4, **variables: str) -> Program:
        """Start a program.

        Args:
            folder: Where it runs; is made. What it says is in a file beside the folder.
            words: What follows `python` on a command line.
            spares: Python processes that it may start.
            variables: Are added to this process's environment.
        """
        folder.mkdir(parents=True, exist_ok=True)
        program = Program(folder, self)
        for file in (program.log, program.notes):
            file.unlink(missing_ok=True)
        defaults = {"OMP_NUM_THREADS": "1", "MPLBACKEND": "agg", "WANDB_MODE": "disabled"}
        environment = {**os.environ, **defaults, "PYTHONPATH": str(REPOSITORY), **variables}
        request = {
            "words": words,
            "folder": str(folder),
            "variables": {**environment, NOTES: str(program.notes)},
            "spares": spares,
            "log": str(program.log),
        }
        assert self._server.stdin
        self._server.stdin.write(json.dumps(request).encode() + b"\n")
        self._server.stdin.flush()
        answer = self._answer(PATIENCE)
        assert answer is not None, "the server does not start programs"
        program.pid = answer
        return program

    def run(self, folder: Path, *words: str, code: int = 0, **options: Any) -> str:
        """Run a program to its end, which must be with this exit status; return what it said."""
        program = self.start(folder, *words, **options)
        found = program.wait()
        assert found == code, f"{words} ended with {found}:\n{program.said}"
        return program.said

    def _answer(self, seconds: float) -> int | None:
        assert self._server.stdout
        ready, _, _ = select.select([self._server.stdout], [], [], seconds)
        return int(self._server.stdout.readline()) if ready else None


@dataclass
class Program:
    """A program that was started.

    Attributes:
        pid: Its process, which leads a group.
        code: Its exit status, negative for a signal; None while it runs.
    """

    folder: Path
    programs: Programs
    pid: int = 0
    code: int | None = field(default=None, init=False)

    @property
    def log(self) -> Path:
        return self.folder.with_name(f"{self.folder.name}.log")

    @property
    def notes(self) -> Path:
        return self.folder.with_name(f"{self.folder.name}.processes")

    @property
    def said(self) -> str:
        return self.log.read_text(errors="replace") if self.log.exists() else ""

    def poll(self) -> int | None:
        if self.code is None:
            self.code = self.programs._answer(0.0)
        return self.code

    def wait(self, seconds: float = PATIENCE) -> int | None:
        """Its exit status; None if it takes longer, and is killed with all that it has started."""
        if self.code is None:
            self.code = self.programs._answer(seconds)
        if self.code is None:
            self.kill_all()
            self.programs._answer(PATIENCE)
        return self.code

    def signal(self, number: int, everyone: bool = False) -> None:
        with suppress(ProcessLookupError):
            (os.killpg if everyone else os.kill)(self.pid, number)

    def wait_for(self, condition: Callable[[], bool], seconds: float = PATIENCE) -> bool:
        """Wait for a moment of its life; returns whether it came before the end."""
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline and self.poll() is None:
            if condition():
                return True
            time.sleep(0.005)
        return False

    def processes(self) -> list[int]:
        """All processes in its folder, its own and those that it has started."""
        found = []
        for process in Path("/proc").glob("[0-9]*"):
            with suppress(OSError):  # it has just ended
                is_here = Path(os.readlink(process / "cwd")).is_relative_to(self.folder)
                state = (process / "stat").read_text().rpartition(")")[2].split()[0]
                if is_here and state != "Z":
                    found.append(int(process.name))
        return found

    def leftovers(self, seconds: float | None = None) -> list[int]:
        """Processes that do not end by themselves after it; they are killed."""
        deadline = time.monotonic() + (SECONDS_TO_END if seconds is None else seconds)
        while (left := self.processes()) and time.monotonic() < deadline:
            time.sleep(0.01)
        self.kill_all()
        return left

    def kill_all(self) -> None:
        for process in self.processes():
            with suppress(ProcessLookupError):
                os.kill(process, signal.SIGKILL)

    def ranks(self) -> dict[int, int]:
        """The process of each rank of a training."""
        return {note["rank"]: note["pid"] for note in self._notes() if TRAIN in note["words"][:2]}

    def data_workers(self, rank: int = 0) -> list[int]:
        """The processes that read the data of a rank."""
        found = []
        for note in self._notes():
            if note["rank"] == rank and "multiprocessing.forkserver" in " ".join(note["words"]):
                children = Path(f"/proc/{note['pid']}/task/{note['pid']}/children")
                with suppress(OSError):  # it has just ended
                    found += sorted({*map(int, children.read_text().split())} - {*note["spares"]})
        return found

    def _notes(self) -> list[dict[str, Any]]:
        """All Python processes that it has started."""
        lines = self.notes.read_text().splitlines() if self.notes.exists() else []
        return [json.loads(line) for line in lines]
