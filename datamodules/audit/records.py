"""Reads the files of an audit, one epoch at a time."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import numpy as np

from datamodules.audit.writer import FACTS, file_name
from datamodules.plan import Ids

Position = tuple[int, int]
"""Epoch and step."""

NEVER: Position = (sys.maxsize, 0)

_NUMBERS = ("session", "rank", "world_size", "num_samples", "global_batch", "accumulate")


class Record(NamedTuple):
    """A rank's part of a step.

    Attributes:
        epoch: Counted from 0.
        step: Global batch of the epoch, counted from 0.
        ids: Sample ids, int64 (samples,).
        unreadable: How many of them could not be read.
    """

    epoch: int
    step: int
    ids: Ids
    unreadable: int


class RankFile:
    """One rank's records of a session.

    The file is open only while an epoch is read: a long run with many restarts has more files than
    a process may open. What a running training appends in the meantime is ignored; otherwise the
    files that are read last would be ahead of the others.

    Args:
        path: The file.
        problems: Gets a message for each line of the file that is wrong.

    Attributes:
        header: The first line; None if there is none, because its rank was killed before.
        pending: The next record; None at the end.
        last: Position of the last record that was read.
    """

    def __init__(self, path: Path, problems: list[str]) -> None:
        self._path, self._problems = path, problems
        self._size = path.stat().st_size
        self._offset = self._line = 0
        self.last: Position = (-1, -1)
        self.pending: Record | None = None
        with open(path, "rb") as file:
            line = self._next_line(file)
            self.header = None if line is None else _parse_header(line, path.name)
            if self.header is not None:
                self.pending = self._next(file)
            elif line is not None:
                self._complain("is not a header of this file, so the file is left out")

    def epoch(self, advance: Callable[[int], None]) -> Iterator[Record]:
        """Yield the records of the pending record's epoch; call `advance` with their bytes."""
        record, begin = self.pending, self._offset
        assert record is not None
        with open(self._path, "rb") as file:
            file.seek(self._offset)
            epoch = record.epoch
            while record is not None and record.epoch == epoch:
                yield record
                record = self._next(file)
        self.pending = record
        advance(self._offset - begin)

    def _next(self, file: BinaryIO) -> Record | None:
        while (line := self._next_line(file)) is not None:
            record = _parse_record(line)
            if record is None:
                self._complain("cannot be read")
            elif (position := record[:2]) <= self.last:
                self._complain(f"has {_name(position)} after {_name(self.last)}")
            else:
                self.last = position
                return record
        return None

    def _next_line(self, file: BinaryIO) -> bytes | None:
        """Read a line; None at the end, or if a kill has cut the last line short."""
        line = file.readline()
        if not line.endswith(b"\n") or self._offset + len(line) > self._size:
            return None
        self._offset += len(line)
        self._line += 1
        return line

    def _complain(self, what: str) -> None:
        self._problems.append(f"{self._path.name}, line {self._line}: {what}")


@dataclass(eq=False)
class Session:
    """One start of the run.

    Attributes:
        number: A number that rises with each start.
        files: The files of the ranks that recorded anything, by rank.
        world_size: Number of ranks.
        facts: What its headers say.
        begin: First record of any rank.
        end: Where a later session replaces it.
    """

    number: int
    files: dict[int, RankFile]
    world_size: int
    facts: dict[str, Any]
    begin: Position
    end: Position = NEVER

    @property
    def length(self) -> int:
        """Global batches in an epoch: complete optimiser steps only."""
        accumulate: int = self.facts["accumulate"]
        per_optimiser_step: int = self.facts["global_batch"] * accumulate
        return int(self.facts["num_samples"] // per_optimiser_step * accumulate)


def read_sessions(folder: Path, problems: list[str]) -> list[Session]:
    """Read the sessions of a folder that have a record, in the order of their starts."""
    files = [RankFile(path, problems) for path in sorted(folder.glob("*-rank*.jsonl"))]
    headers = [(file.header, file) for file in files if file.header and file.pending]
    headers.sort(key=lambda each: (each[0]["session"], each[0]["rank"]))
    sessions = []
    for number, group in groupby(headers, key=lambda each: int(each[0]["session"])):
        members = list(group)
        first = members[0][0]
        for header, _ in members[1:]:
            problems.extend(
                f"session {number}: rank {header['rank']} has {name} {header[name]} and "
                f"rank {first['rank']} has {first[name]}"
                for name in ("world_size", *FACTS)
                if header[name] != first[name]
            )
        sessions.append(
            Session(
                number=number,
                files={header["rank"]: file for header, file in members},
                world_size=max(header["world_size"] for header, _ in members),
                facts={name: first[name] for name in FACTS},
                begin=min(file.last for _, file in members),
            )
        )
    return sessions


def _parse_header(line: bytes, name: str) -> dict[str, Any] | None:
    try:
        header = json.loads(line)
        numbers = [header[key] for key in _NUMBERS]
        sound = (
            all(type(number) is int for number in numbers)
            and name == file_name(header["session"], header["rank"])
            and 0 <= header["rank"] < header["world_size"] <= header["global_batch"]
            and header["accumulate"] > 0
            and header["global_batch"] * header["accumulate"] <= header["num_samples"]
            and set(FACTS) <= set(header)
        )
    except (ValueError, TypeError, KeyError):
        return None
    return header if sound else None


def _parse_record(line: bytes) -> Record | None:
    try:
        fields = json.loads(line)
        epoch, step = fields["epoch"], fields["step"]
        ids = np.array(fields["ids"])
        unreadable = len(fields.get("unreadable", ()))
    except (ValueError, TypeError, KeyError):
        return None
    if (
        type(epoch) is not int
        or type(step) is not int
        or not 0 <= min(epoch, step) <= max(epoch, step) < NEVER[0]
    ):
        return None
    if ids.ndim != 1 or ids.dtype != np.int64:  # not a list of integers, or an empty list
        return None
    return Record(epoch, step, ids, unreadable)


def _name(position: Position) -> str:
    return "epoch {}, step {}".format(*position)
