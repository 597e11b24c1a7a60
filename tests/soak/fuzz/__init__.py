"""Damaged files for everything that reads files from outside.

Each kind of files has a sound file, ways to damage it, and a reader: the one that users' files go
through, with the real handling of errors. An input is a damaged file; kind, seed and number fix its
bytes. It must be read, or refused by one line that names the file. The inputs of a kind are read in
a child with a limit on memory and an audit hook (guard.py), and this process ends a child whose
input takes too long.

To try one input again, with its traceback:

    python -m tests.soak.fuzz KIND SEED NUMBER
"""

from __future__ import annotations

import multiprocessing
import signal
import time
from collections.abc import Iterator, Mapping
from pathlib import Path

from tests.soak.fuzz.child import Result, serve
from tests.soak.fuzz.reading import Kind
from tests.soak.outcomes import CRASH, LIMIT, Row

INPUTS = 300
"""Of each kind."""
SECONDS = 60.0
"""The longest that a child may be silent: beside other work, an input has a second of CPU then."""


def run(folder: Path, share: float, seed: int) -> list[Row]:
    from tests.soak.fuzz.kinds import KINDS  # imports everything

    return try_kinds(KINDS, folder, max(1, round(share * INPUTS)), seed)


def try_kinds(
    kinds: Mapping[str, Kind], folder: Path, inputs: int, seed: int, seconds: float = SECONDS
) -> list[Row]:
    """Try so many inputs of each kind; prints what happens meanwhile."""
    rows: dict[str, Row] = {}
    results: dict[str, list[Result]] = {}
    for name, kind in kinds.items():
        row, began = rows.setdefault(kind.row, Row(kind.row)), time.monotonic()
        own, first = list[Result](), dict[tuple[str, str], int]()
        for result in _results(kind, name, folder, seed, inputs, seconds):
            own.append(result)
            for outcome, detail in result.unwanted:
                number = first.setdefault((outcome, detail), result.number)
                row.add(outcome, f"{detail}; python -m tests.soak.fuzz {name} {seed} {number}")
        results.setdefault(kind.row, []).extend(own)
        found, spent = sum(len(each.unwanted) for each in own), time.monotonic() - began
        cpu = sum(each.seconds for each in own)
        print(
            f"{name}: {len(own)} inputs, {found} unwanted, {spent:.0f} s, {cpu:.0f} of CPU",
            flush=True,
        )
    for row in rows.values():
        row.tried, row.measured = len(results[row.what]), _measured(results[row.what])
    return list(rows.values())


def _measured(results: list[Result]) -> str:
    refused = sum(each.refused for each in results)
    longest, most = (max(getattr(each, name) for each in results) for name in ("seconds", "bytes"))
    share = refused / len(results)
    return f"{share:.0%} refused; at most {longest:.1f} s and {most / 1e9:.1f} GB"


def _results(
    kind: Kind, name: str, folder: Path, seed: int, inputs: int, seconds: float
) -> Iterator[Result]:
    """Read the inputs in a child, and the rest in another one if an input has ended it."""
    first, context = 0, multiprocessing.get_context("fork")
    while first < inputs:
        messages, sender = context.Pipe(duplex=False)
        arguments = (kind, name, seed, range(first, inputs), folder / name, sender)
        child = context.Process(target=serve, args=arguments, daemon=True)
        child.start()
        sender.close()
        begun, hangs = -1, False
        try:
            while not (hangs := not messages.poll(seconds)):
                message = messages.recv()
                if isinstance(message, Result):
                    yield message
                    first = message.number + 1
                else:
                    begun = message
        except EOFError:
            child.join(seconds)
        child.kill()
        child.join()
        if child.exitcode == 0 and first == inputs:
            return
        if begun < first:
            text = (folder / f"{name}.log").read_text(errors="replace")
            raise RuntimeError(f"the sound file of {name} cannot be read: {text[-2000:]}")
        first = begun + 1
        cause = signal.Signals(-child.exitcode).name if child.exitcode < 0 else "an exit"
        unwanted = (LIMIT, f"hangs for {seconds:g} s") if hangs else (CRASH, f"ended by {cause}")
        yield Result(begun, False, seconds if hangs else 0.0, 0, (unwanted,))
