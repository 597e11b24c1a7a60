"""The files of ``persample.py``: a network's results, whole and in parts."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

_RECORD = b"bagnet"


@dataclass(frozen=True)
class PartFiles:
    """The files of one network's results.

    Attributes:
        folder: ``OUT/NAME``.
        label: Of the network.
        record: What they hold; it goes into each.
    """

    folder: Path
    label: str
    record: Mapping[str, Any]

    @property
    def whole(self) -> Path:
        """The file of all rows."""
        return self.folder / f"{self.label}.parquet"

    def part(self, number: int) -> Path:
        """The file of one part."""
        return self._parts / f"part-{number:05d}.parquet"

    def exists(self, path: Path) -> bool:
        """Whether a file is there.

        Raises:
            ValueError: It holds something else.
        """
        if not path.exists():
            return False
        found = read_record(path)
        for key, value in self.record.items():
            if found.get(key) != value:
                raise ValueError(
                    f"{path} holds the results of another measurement: its {key} is {found.get(key)}, and this "
                    f"one's {value}; give another --out, or delete the file"
                )
        return True

    def write(self, path: Path, table: pa.Table) -> None:
        """Write a table with the record; the file appears complete or not at all."""
        path.parent.mkdir(parents=True, exist_ok=True)
        unfinished = path.with_name(f".{path.name}.{os.getpid()}.tmp")
        try:
            table = table.replace_schema_metadata({_RECORD: json.dumps(self.record)})
            pq.write_table(table, unfinished, compression="zstd")
            os.replace(unfinished, path)
        finally:
            unfinished.unlink(missing_ok=True)

    def join(self, parts: int) -> None:
        """Make one file of the parts 0, 1, ... and remove them."""
        tables = [read_file(self.part(number)) for number in range(parts)]
        # A part without a readable image lacks the measurement's columns.
        whole = pa.concat_tables(tables, promote_options="permissive")
        if not whole.num_rows:
            raise ValueError(
                "none of the images could be read: check the data (python -m datamodules.pack verify)"
            )
        self.write(self.whole, whole)
        shutil.rmtree(self._parts)
        with suppress(OSError):  # another network still has some
            self._parts.parent.rmdir()

    @property
    def _parts(self) -> Path:
        return self.folder / "parts" / self.label


def read_file(path: Path) -> pa.Table:
    """Read one of these files.

    Raises:
        ValueError: It is none, or damaged.
    """
    read_record(path)
    return _opened(path, pq.read_table)


def read_record(path: Path) -> dict[str, Any]:
    """Read what one of these files holds, and none of its rows.

    Raises:
        ValueError: It is none, or damaged.
    """
    record = record_in(_opened(path, pq.read_schema))
    if not record:
        raise ValueError(f"{path} was not written by an experiment: take it away")
    return record


def record_in(schema: pa.Schema) -> dict[str, Any]:
    """The record in the schema of a table; empty where there is none."""
    return json.loads((schema.metadata or {}).get(_RECORD, b"{}"))


def _opened(path: Path, read: Callable[[Path], Any]) -> Any:
    try:
        return read(path)
    except pa.ArrowInvalid as error:
        reason = str(error).splitlines()[0]
        raise ValueError(
            f"{path} is damaged ({reason}): delete it, and it is measured again"
        ) from None
