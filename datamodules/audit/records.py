"""Reads the files of an audit, one epoch at a time."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import numpy as np

from datamodules.audit.writer import FACTS, file_name
from datamodules.common.reading import plain
from datamodules.plan import Ids

Position = tuple[int, int]
"""Epoch and step."""

NEVER: Position = (sys.maxsize, 0)

MAX_LINE = 1 << 26
"""Bytes of a record; one of a million samples has less."""
_NUMBERS = ("session", "rank", "world_size", "num_samples", "global_batch", "accumulate")


class Record(NamedTuple):
    """A rank's part of a step, which is a global batch of its epoch; both are counted from 0."""

    epoch: int
    step: int
    ids: Ids  # int64 (samples,)
    unreadable: int  # how many of them could not be read
    session: int
    rank: int


class RankFile:
    """One rank's records of a session.

    The file is open only while an epoch is read: a long run with many restarts has more files than
    a process may open. What a running training appends in the meantime is ignored; otherwise the
    files that are read last would be ahead of the others. `problems` gets a message for each line
    that is wrong.
    """

    def __init__(self, path: Path, problems: list[str]) -> None:
        self._path, self._problems = path, problems
        self._size = path.stat().st_size
        self.offset = self._line = 0
        self.last: Position = (-1, -1)  # position of the last record that was read
        self.pending: Record | None = None  # the next record
        self.header: dict[str, Any] = {}  # empty if the rank was killed before it was written
        with open(path, "rb", opener=plain) as file:
            line = self._next_line(file)
            if line is not None:
                self.header = _parse_header(line, path.name)
                if not self.header:
                    self._complain("is not a header of this file, so the file is left out")
            if self.header:
                self.pending = self._next(file)

    def epoch(self) -> Iterator[Record]:
        """Yield the records of the pending record's epoch."""
        record = self.pending
        assert record is not None
        with open(self._path, "rb", opener=plain) as file:
            file.seek(self.offset)
            epoch = record.epoch
            while record is not None and record.epoch == epoch:
                yield record
                record = self._next(file)
        self.pending = record

    def _next(self, file: BinaryIO) -> Record | None:
        while (line := self._next_line(file)) is not None:
            record = _parse_record(line, self.header)
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
        line = file.readline(MAX_LINE)
        if not line.endswith(b"\n") or self.offset + len(line) > self._size:
            return None
        self.offset += len(line)
        self._line += 1
        return line

    def _complain(self, what: str) -> None:
        self._problems.append(f"{self._path.name}, line {self._line}: {what}")


@dataclass(eq=False)
class Session:
    """One start of the run."""

    number: int  # rises with each start
    files: dict[int, RankFile]  # of the ranks that recorded anything, by rank
    world_size: int
    facts: dict[str, Any]  # what its headers say
    begin: Position  # first record of any rank
    end: Position = NEVER  # where a later session replaces it

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


def _parse_header(line: bytes, name: str) -> dict[str, Any]:
    try:
        header: dict[str, Any] = json.loads(line)
        numbers = [header[key] for key in _NUMBERS]
        sound = (
            all(type(number) is int for number in numbers)
            and name == file_name(header["session"], header["rank"])
            and 0 <= header["rank"] < header["world_size"] <= header["global_batch"]
            and header["accumulate"] > 0
            and header["global_batch"] * header["accumulate"] <= header["num_samples"]
            and set(FACTS) <= set(header)
        )
    except (ValueError, TypeError, KeyError, RecursionError):
        return {}
    return header if sound else {}


def _parse_record(line: bytes, header: dict[str, Any]) -> Record | None:
    try:
        fields = json.loads(line)
        position = fields["epoch"], fields["step"]
        ids = np.array(fields["ids"])
        unreadable = len(fields.get("unreadable", ()))
    except (ValueError, TypeError, KeyError, RecursionError, OverflowError):
        return None
    is_position = all(type(number) is int and 0 <= number < NEVER[0] for number in position)
    if not is_position or ids.ndim != 1 or ids.dtype != np.int64:  # an empty list is float64
        return None
    return Record(*position, ids, unreadable, header["session"], header["rank"])


def _name(position: Position) -> str:
    return "epoch {}, step {}".format(*position)
