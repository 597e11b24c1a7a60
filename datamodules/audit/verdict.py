"""Finds out which of the recorded steps reached the weights, and whether they are exact.

A session that resumes replaces all that earlier sessions did from its first step on: they trained
these steps, but after their last checkpoint, so they were lost. What is left of each session is a
part of the run, and the parts must join. If the last session was killed, its ranks stop at
different steps; only those count that all ranks recorded.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

from datamodules.audit.epoch import NOT_EXACT, SO_FAR, EpochReport, check, name_ranks, span
from datamodules.audit.records import NEVER, Record, Session, read_sessions
from datamodules.audit.writer import FACTS

# The ranks meet in every optimiser step; a process can queue only a few steps before that.
_STEPS_APART = 8


@dataclass(frozen=True)
class Report:
    """What an audit found."""

    epochs: list[EpochReport]  # those that have a record
    problems: list[str]  # a line for each thing that is wrong
    restarts: int  # how often the run was started again
    world_sizes: tuple[int, ...]  # numbers of ranks, sorted

    @property
    def verdict(self) -> str:
        """`EXACT`, `SO_FAR` or `NOT_EXACT`."""
        if self.problems:
            return NOT_EXACT
        return self.epochs[-1].verdict if self.epochs else SO_FAR


def audit(folder: Path, progress: Callable[[int], Any] = lambda done: None) -> Report:
    """Check all that a run has recorded; it may still be running.

    Args:
        folder: The folder that `AuditWriter` was given.
        progress: Called after each file and epoch with the number of bytes read so far.

    Raises:
        ValueError: There is no such folder, or it has no records.
    """
    if not folder.is_dir():
        raise ValueError(
            f"no such folder: {folder}; a run records what it trains on with "
            f"`python train.py --data.audit_dir {folder}`"
        )
    problems: list[str] = []
    sessions = read_sessions(folder, problems)
    if not sessions and problems:
        return Report([], problems, 0, ())
    if not sessions:
        raise ValueError(
            f"{folder} has no records: no step was trained yet, or the run recorded elsewhere; "
            "give the folder that the run had as --data.audit_dir"
        )
    lineage = _lineage(sessions)
    problems += _disagreements(lineage)
    last = lineage[-1]
    if len(last.files) < last.world_size:  # a rank was killed before its first step
        last.end = last.begin

    epochs: list[EpochReport] = []
    previous = -1
    while (epoch := _next_epoch(sessions)) is not None:
        if last.end > (previous + 1, 0) and epoch > previous + 1:
            problems.append(f"{span('epoch', previous + 1, epoch - 1)}: no records")
        previous = epoch
        records, redone = _take(epoch, sessions, progress)
        if last.end == NEVER:
            ends = [file.last for file in last.files.values() if file.pending is None]
            if ends:
                last.end = min(ends)[0], min(ends)[1] + 1
        if last.end > (epoch, 0):
            epochs.append(check(epoch, records, redone, lineage, problems))
    problems += _apart(last)
    world_sizes = sorted({session.world_size for session in lineage})
    return Report(epochs, problems, len(sessions) - 1, tuple(world_sizes))


def _lineage(sessions: list[Session]) -> list[Session]:
    """Set the end of each session; returns those that have any steps left."""
    begin = NEVER
    for session in reversed(sessions):
        session.end = begin
        begin = min(begin, session.begin)
    return [session for session in sessions if session.begin < session.end]


def _disagreements(lineage: list[Session]) -> Iterator[str]:
    for before, after in pairwise(lineage):
        for name in FACTS:
            if before.facts[name] != after.facts[name]:
                yield (
                    f"session {after.number} resumes with {name} {after.facts[name]} where session "
                    f"{before.number} had {before.facts[name]}"
                )


def _next_epoch(sessions: list[Session]) -> int | None:
    files = (file for session in sessions for file in session.files.values())
    return min((file.pending.epoch for file in files if file.pending), default=None)


def _take(
    epoch: int, sessions: list[Session], progress: Callable[[int], Any]
) -> tuple[list[Record], int]:
    """The epoch's records that reached the weights, and how many steps were lost and redone."""
    records, redone = [], 0
    for session in sessions:
        lost = set()
        for file in session.files.values():
            if file.pending is None or file.pending.epoch != epoch:
                continue
            for record in file.epoch():
                if record[:2] < session.end:
                    records.append(record)
                else:
                    lost.add(record.step)
            progress(sum(each.offset for s in sessions for each in s.files.values()))
        if session is not sessions[-1]:
            redone += len(lost)
    return records, redone


def _apart(last: Session) -> Iterator[str]:
    """Report ranks of the last session that are further behind than a kill can explain."""
    furthest = max(file.last for file in last.files.values())
    epochs, steps = (there - here for there, here in zip(furthest, last.end, strict=True))
    ahead = epochs * last.length + steps + 1
    if ahead > _STEPS_APART * last.facts["accumulate"]:
        slow = [
            rank
            for rank in range(last.world_size)
            if rank not in last.files or last.files[rank].last < last.end
        ]
        yield (
            f"epoch {last.end[0]}, step {last.end[1]}: no record of {name_ranks(slow)}, session "
            f"{last.number}, although other ranks did {ahead} more steps"
        )
