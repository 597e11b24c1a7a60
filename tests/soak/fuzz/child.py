"""Reads damaged files of a kind, in a process of its own that reports what happens to whom."""

from __future__ import annotations

import contextlib
import io
import os
import resource
import shutil
import time
import warnings
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from random import Random

from tests.soak.fuzz.guard import Guard, limit_memory
from tests.soak.fuzz.reading import Kind, in_this_process, judge
from tests.soak.outcomes import LET_IN, LIMIT

CPU_SECONDS = 10.0
"""The most that an input may take."""


@dataclass(frozen=True)
class Result:
    """What became of an input.

    Attributes:
        number: Its number.
        refused: Whether the reader refused it.
        seconds: Of CPU time.
        bytes: The most memory of the process until then.
        unwanted: What must not happen and did: outcome and detail.
    """

    number: int
    refused: bool
    seconds: float
    bytes: int
    unwanted: tuple[tuple[str, str], ...]


def damaged(kind: Kind, name: str, seed: int, number: int, sound: bytes) -> bytes:
    """The bytes of an input, which are the same for the same arguments."""
    rng = Random(f"{name} {seed} {number}")
    mutation = kind.mutations[number % len(kind.mutations)]
    while True:
        try:
            return mutation(sound, rng)
        except Exception:  # what two mutations leave may be no sound file for a third
            continue


def serve(
    kind: Kind, name: str, seed: int, numbers: range, folder: Path, parent: Connection
) -> None:
    """Read the inputs with these numbers; sends each number before, and a `Result` after it."""
    log = os.open(folder.with_suffix(".log"), os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    for stream in (1, 2):  # libraries in C write there
        os.dup2(log, stream)
    sound = prepare(kind, folder)
    guard = Guard(folder)
    limit_memory()
    for number in numbers:
        (folder / kind.file).write_bytes(damaged(kind, name, seed, number, sound))
        parent.send(number)
        parent.send(attempt(kind, number, folder, guard))


def prepare(kind: Kind, folder: Path) -> bytes:
    """Make the folder, read the sound file once, which must work, and return its bytes."""
    warnings.simplefilter("ignore")
    os.environ.update(TMPDIR=str(folder), BAGNET_RUNS=str(folder / "runs"), WANDB_MODE="disabled")
    in_this_process()
    if not folder.exists():
        folder.mkdir(parents=True)
        kind.prepare(folder)
        shutil.copy(folder / kind.file, folder.with_suffix(".sound"))
    sound = folder.with_suffix(".sound").read_bytes()
    (folder / kind.file).write_bytes(sound)
    with _quiet():
        kind.read(folder)  # also imports what is imported late
    shutil.rmtree(folder / "out", ignore_errors=True)
    return sound


def attempt(kind: Kind, number: int, folder: Path, guard: Guard) -> Result:
    """Read the file that is in the folder now."""
    began, refused, unwanted = time.process_time(), False, []
    with guard, _quiet():
        try:
            kind.read(folder)
        except (Exception, SystemExit) as error:
            refused = True
            unwanted = [found] if (found := judge(error, kind)) else []
    seconds = time.process_time() - began
    unwanted += [(LET_IN, noted) for noted in guard.noted]
    if seconds > CPU_SECONDS:
        unwanted.append((LIMIT, f"more than {CPU_SECONDS:g} s of CPU time"))
    shutil.rmtree(folder / "out", ignore_errors=True)
    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss << 10
    return Result(number, refused, seconds, most, tuple(unwanted))


@contextlib.contextmanager
def _quiet():
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        yield
