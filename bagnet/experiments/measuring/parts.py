"""The Parquet files of a model's results: the parts while it is measured, then one file."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from bagnet.experiments.measuring.models import ModelFile
from datamodules.common.files import replacing
from datamodules.common.reading import require_plain

_RECORD = b"bagnet"


@dataclass(frozen=True)
class PartFiles:
    """The files of one model's results in `OUT/NAME`; each has the record of what is measured."""

    folder: Path
    model: ModelFile
    record: Mapping[str, Any]

    @property
    def whole(self) -> Path:
        """The file with all rows."""
        return self.folder / f"{self.model.label}.parquet"

    def part(self, number: int) -> Path:
        """The file of one part."""
        return self.folder / "parts" / self.model.label / f"part-{number:05d}.parquet"

    def exists(self, path: Path) -> bool:
        """Whether a file exists.

        Raises:
            ValueError: It holds the results of another measurement.
        """
        if not path.exists():
            return False
        found = read_record(path)
        for key, value in self.record.items():
            if found.get(key) != value:
                raise ValueError(
                    f"{path} holds the results of another measurement: there, {key} is "
                    f"{found.get(key)}, and here it is {value}; give another --out, or delete the "
                    "file"
                )
        return True

    def write(self, path: Path, tables: list[pa.Table]) -> None:
        """Write the rows of all tables, and the record."""
        # A batch or part without a readable image lacks the measurement's columns.
        table = pa.concat_tables(tables, promote_options="permissive")
        table = table.replace_schema_metadata({_RECORD: json.dumps(self.record)})
        with replacing(path) as temporary:
            pq.write_table(table, temporary, compression="zstd", write_page_checksum=True)

    def join(self, parts: int) -> None:
        """Make one file of the parts 0, 1, ... and remove them."""
        tables = [read_file(self.part(number)) for number in range(parts)]
        if not any(table.num_rows for table in tables):
            raise ValueError(
                "none of the images could be read: check the data "
                "(python -m datamodules.pack verify)"
            )
        self.write(self.whole, tables)
        folder = self.part(0).parent
        shutil.rmtree(folder)
        with suppress(OSError):  # parts of another model are left
            folder.parent.rmdir()


def result_files(folder: Path) -> list[Path]:
    """The complete files of a folder, without temporary ones that a kill may have left."""
    return sorted(folder.glob("[!.]*.parquet"))


def read_file(path: Path) -> pa.Table:
    """Read a file of results; raises as `read_record`."""
    read_record(path)
    return _read(path, partial(pq.read_table, page_checksum_verification=True))


def read_record(path: Path) -> dict[str, Any]:
    """Read what was measured, without the rows.

    Raises:
        ValueError: The file is damaged, or was not written by an experiment.
    """
    schema = _read(path, pq.read_schema)
    if _RECORD not in (schema.metadata or {}):
        raise ValueError(f"{path} was not written by an experiment: remove it")
    record: dict[str, Any] = _read(path, lambda _: record_of(schema))
    if not isinstance(record, dict):
        raise ValueError(f"{path} was not written by an experiment: remove it")
    return record


def record_of(schema: pa.Schema) -> dict[str, Any]:
    """What was measured, from the schema of a table.

    Returns:
        measurement, weights and data (digests), image_size, resize_size, images, classes (their
        ids by label), class_names; of an evaluation set also evaluation, the number of the classes
        that count.
    """
    record: dict[str, Any] = json.loads(schema.metadata[_RECORD])
    return record


def is_imagenet(table: pa.Table) -> bool:
    """Whether images of 1,000 classes were measured, as in the paper, and no evaluation set."""
    record = record_of(table.schema)
    return len(record["class_names"]) == 1000 and "evaluation" not in record


def _read(path: Path, read: Callable[[Path], Any]) -> Any:
    require_plain(path)
    try:
        return read(path)
    except (pa.ArrowException, ValueError, OSError, RecursionError) as error:
        if isinstance(error, OSError) and error.errno is not None:
            raise  # the disk is at fault; pyarrow's errors about damage have no number
        reason = (str(error) or type(error).__name__).splitlines()[0]
        raise ValueError(
            f"{path} is damaged ({reason}): delete it, and the same command measures it again"
        ) from None
