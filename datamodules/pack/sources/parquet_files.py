"""Reads Parquet files: first all but the images, then these, once and in their order.

Rows of Parquet are compressed in groups of hundreds, and a shuffle asks for one row here and one
there. So each file is copied to a plain one with an index, where any image is one seek away.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from hashlib import blake2b
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from datamodules.common.arrays import map_array
from datamodules.common.errors import printable
from datamodules.common.files import replacing
from datamodules.decoding.images import UnreadableImage
from datamodules.pack.sources.listing import Source
from datamodules.pack.sources.locations import local_copy, path_in
from datamodules.processes.pool import Pool, advance
from datamodules.remote.sources import opened_anywhere, with_retries
from datamodules.remote.urls import redacted

_BATCH = 32
"""Rows that are in memory at a time, beside a group of rows as it is stored."""


class File(NamedTuple):
    """What a Parquet file holds beside images."""

    labels: list[int | str]  # -1 and "" if there is none
    paths: list[str]  # that the files had once: names for people, and never opened
    names: tuple[str, ...]  # of the classes by label, as the library `datasets` writes them
    version: int  # which changes when the file changes


@dataclass(frozen=True)
class Rows(Source):
    """The images of Parquet files. Their copies are in `root` once `prepare` has run."""

    locations: tuple[str, ...] = ()
    column: str = "image"

    def prepare(self, pool: Pool, progress: Callable[[int], Any]) -> None:
        pool.run(_copy, [self._copy_of(number) for number in range(len(self.locations))], progress)

    def read(self, entry: np.void) -> bytes:
        _, ends_path, _ = self._copy_of(int(entry["archive"]))
        ends, row = map_array(ends_path), int(entry["offset"])
        if row >= len(ends):
            raise UnreadableImage(f"the file has no row {row} any more")
        start = int(ends[row - 1]) if row else 0
        with open(ends_path.with_suffix(".bin"), "rb") as file:
            file.seek(start)
            data = file.read(int(ends[row]) - start)
        if not data:
            raise UnreadableImage(f"row {row} has no bytes")
        return data

    def describe(self, entry: np.void) -> str:
        name = printable(os.fsdecode(entry["name"]))
        return f"{path_in(self.locations[entry['archive']]).name}: {name}"

    def _copy_of(self, number: int) -> tuple[str, Path, str]:
        return self.locations[number], self.root / f"rows-{number:06d}.npy", self.column


def read_file(task: tuple[str, str, str]) -> File:
    """List a file, in a worker: by requests for what is beside the images, if it is remote."""
    return with_retries(partial(_read_facts, *task))


def _read_facts(location: str, image: str, label: str) -> File:
    with opened_anywhere(location) as (file, version), _intact(location) as problem:
        parquet = pq.ParquetFile(file, pre_buffer=True)
        schema = parquet.schema_arrow
        wanted = [f"{image}.path", label]
        columns = parquet.read(columns=wanted, use_threads=False).to_pydict()
        rows = parquet.metadata.num_rows
    if problem:
        raise ValueError(problem[0])
    for flag, name in {"image": image, "label": label}.items():
        if name not in schema.names:
            raise ValueError(
                f"{redacted(location)} has no column {name!r}: it has {', '.join(schema.names)}; "
                f"give --{flag} COLUMN"
            )
    kind = schema.field(image).type
    if pa.types.is_struct(kind) and kind.get_field_index("bytes") >= 0:
        kind = kind.field("bytes").type
    if not (pa.types.is_binary(kind) or pa.types.is_large_binary(kind)):
        raise ValueError(f"the column {image!r} of {redacted(location)} is {kind}, and not images")
    advance(rows)
    stem = path_in(location).stem
    paths = [(each or {}).get("path") for each in columns.get(image, [None] * rows)]
    return File(
        _labels(columns[label], schema.field(label).type, location),
        [path or f"{stem}-{row}" for row, path in enumerate(paths)],
        _class_names(schema, label),
        int.from_bytes(blake2b(repr(version).encode(), digest_size=7).digest(), "big"),
    )


def _labels(values: list[Any], kind: pa.DataType, location: str) -> list[int | str]:
    if pa.types.is_dictionary(kind):
        kind = kind.value_type
    if pa.types.is_integer(kind):
        return [-1 if value is None else value for value in values]
    if pa.types.is_string(kind) or pa.types.is_large_string(kind):
        return [(value or "").strip() for value in values]
    raise ValueError(f"the labels of {redacted(location)} are {kind}, and not numbers or names")


def _class_names(schema: pa.Schema, label: str) -> tuple[str, ...]:
    """Names of the classes by label, in the metadata that the library `datasets` writes."""
    try:
        features = json.loads((schema.metadata or {})[b"huggingface"])["info"]["features"]
        names = features[label]["names"]
        return tuple(map(str, names)) if isinstance(names, list) else ()
    except (KeyError, TypeError, ValueError, RecursionError):
        return ()


def _copy(task: tuple[str, Path, str]) -> None:
    """Copy the images of a file, unless that is done: one after the other, and where each ends."""
    location, ends_path, column = task
    if (rows := _copied(ends_path)) is not None:
        advance(rows)
        return
    ends = []
    with (
        local_copy(location) as path,
        replacing(ends_path.with_suffix(".bin")) as temporary,
        open(temporary, "wb") as copy,
        _intact(location) as problem,
        pq.ParquetFile(path, buffer_size=1 << 20, pre_buffer=False) as parquet,
    ):
        for batch in parquet.iter_batches(_BATCH, columns=[column], use_threads=False):
            values = batch.column(0)
            if pa.types.is_struct(values.type):
                values = values.field("bytes")
            for value in values:
                copy.write(value.as_py() or b"")
                ends.append(copy.tell())
                advance()
    if problem:
        raise ValueError(problem[0])
    with replacing(ends_path) as temporary:
        np.save(temporary, np.array(ends, np.int64))


def _copied(ends_path: Path) -> int | None:
    """The number of images in a copy; None if it is not complete."""
    try:
        ends = map_array(ends_path)
        size = ends_path.with_suffix(".bin").stat().st_size
    except (ValueError, OSError):
        return None
    known = ends.dtype == np.int64 and ends.ndim == 1 and len(ends)
    is_whole = known and ends[0] >= 0 and (np.diff(ends) >= 0).all() and ends[-1] == size
    return len(ends) if is_whole else None


@contextmanager
def _intact(location: str) -> Iterator[list[str]]:
    """Collect what pyarrow says of a damaged file: what it raises looks like other failures."""
    problem: list[str] = []
    try:
        yield problem
    except (pa.ArrowException, OSError, UnicodeDecodeError) as error:
        if isinstance(error, OSError) and (error.errno is not None or type(error) is not OSError):
            raise  # of the disk or of the network
        reason = printable(str(error).splitlines()[0])
        problem.append(
            f"{redacted(location)} is not a complete Parquet file ({reason}); download it again"
        )
