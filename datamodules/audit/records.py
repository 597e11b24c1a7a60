"""Reads the files of an audit, an epoch at a time."""

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
    """A rank's part of a step."""

    epoch: int
    step: int
    ids: Ids
    unreadable: int


class RankFile:
    """One rank's records of a session.

    It is open only while an epoch is read: a long run with many restarts has more files than a
    process may open. What a running training appends meanwhile is left for another time, or the
    files that are read last would be ahead of the others.

    Args:
        path: of the file.
        problems: takes a line for each line of the file that is wrong.

    Attributes:
        header: None if the file has none, as its rank was killed before it had written one.
        pending: the next record; None at the end.
        last: where the last record that was read stands.
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
                self._complain("is no header of this file, so the file is left out")

    def epoch(self, advance: Callable[[int], None]) -> Iterator[Record]:
        """The records of the pending record's epoch; `advance` is told how many bytes they are."""
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
        """The next line; None at the end, and for a last line that was cut by a kill."""
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
        number: rises with each start.
        files: of its ranks that recorded anything, by rank.
        world_size: number of ranks.
        facts: what its headers say.
        begin: the first record of any rank.
        end: where it counts no longer.
    """

    number: int
    files: dict[int, RankFile]
    world_size: int
    facts: dict[str, Any]
    begin: Position
    end: Position = NEVER

    @property
    def length(self) -> int:
        """Global batches in an epoch: whole windows of accumulation."""
        window = self.facts["global_batch"] * self.facts["accumulate"]
        return self.facts["num_samples"] // window * self.facts["accumulate"]


def read_sessions(folder: Path, problems: list[str]) -> list[Session]:
    """The sessions of a folder that have a record, in the order of their starts."""
    files = [RankFile(path, problems) for path in sorted(folder.glob("*-rank*.jsonl"))]
    headers = [(file.header, file) for file in files if file.header and file.pending]
    headers.sort(key=_session_and_rank)
    sessions = []
    for number, group in groupby(headers, key=_session):
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


def _session(member: tuple[dict[str, Any], RankFile]) -> int:
    return member[0]["session"]


def _session_and_rank(member: tuple[dict[str, Any], RankFile]) -> tuple[int, int]:
    return member[0]["session"], member[0]["rank"]


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
    if ids.ndim != 1 or ids.dtype != np.int64:  # anything but a list of integers, and an empty one
        return None
    return Record(epoch, step, ids, unreadable)


def _name(position: Position) -> str:
    return "epoch {}, step {}".format(*position)
