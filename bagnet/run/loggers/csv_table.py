"""The table of everything that a run logs."""

from __future__ import annotations

import csv
import io
from argparse import Namespace
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pytorch_lightning.loggers import Logger
from pytorch_lightning.utilities import rank_zero_only

from bagnet.run.lease import Lease
from datamodules.common.files import naming, replacing, set_aside
from datamodules.common.reading import MAX_TEXT, read_plain


class CSVTable(Logger):
    """One CSV file for the whole life of a run: a row for each logged step, a column for each name.

    Lightning's CSVLogger deletes the file when a run is resumed. This one keeps it and drops only
    the rows of steps that are repeated. Each value is in the file when `log_metrics` returns.

    Args:
        path: The file.
        lease: Nothing is written after it is lost.
    """

    def __init__(self, path: Path, lease: Lease) -> None:
        super().__init__()
        self.path, self._lease = path, lease
        self._columns: list[str] = []
        self._row: dict[str, Any] = {}
        self._begin = 0  # of the last row, in bytes
        self._damaged = False  # whether rows were left out

    @property
    def name(self) -> str:
        return "csv"

    @property
    def version(self) -> str:
        return ""

    @property
    def save_dir(self) -> str:
        return str(self.path.parent)

    def between(self, after: int, before: int) -> list[dict[str, float]]:
        """Return the rows whose steps are greater than `after` and less than `before`."""
        return [
            {column: float(value) for column, value in row.items()}
            for row in self._read()
            if after < int(row["step"]) < before
        ]

    @rank_zero_only
    def log_hyperparams(
        self, params: dict[str, Any] | Namespace, *args: Any, **kwargs: Any
    ) -> None:
        """Do nothing: the configuration is in `config.yaml`, beside the table."""

    @rank_zero_only
    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        assert step is not None
        if not self._lease.is_held():
            return
        if not self._row:
            rows = self._read()
            if self._damaged:
                set_aside(self.path, f"its rows that can be read, {len(rows)}, are kept")
            self._rewrite([row for row in rows if int(row["step"]) < step], metrics)
        if self._row.get("step") != step:
            self._row = {"step": step}
            self._begin = self.path.stat().st_size
        self._row.update(metrics)
        if not self._row.keys() <= set(self._columns):
            self._rewrite(self._read(before=self._begin), self._row)
        self._write_row()

    def _write_row(self) -> None:
        """Overwrite the last row with its new values."""
        text = io.StringIO(newline="")
        csv.DictWriter(text, self._columns).writerow(self._row)
        with naming(self.path), self.path.open("r+b") as file:
            file.seek(self._begin)
            file.write(text.getvalue().encode())
            file.truncate()

    def _rewrite(self, rows: list[dict[str, Any]], names: Mapping[str, Any]) -> None:
        """Replace the file by one with these rows, and with columns for these names too."""
        named = {column for row in rows for column in row} | names.keys()
        self._columns = ["step", "epoch", *sorted(named - {"step", "epoch"})]
        with replacing(self.path) as temporary, temporary.open("w", newline="") as file:
            writer = csv.DictWriter(file, self._columns)
            writer.writeheader()
            writer.writerows(rows)
        self._begin = self.path.stat().st_size

    def _read(self, before: int | None = None) -> list[dict[str, Any]]:
        """Return the complete rows among the first `before` bytes; a kill may have cut the last."""
        if not self.path.exists():
            return []
        whole, _, _ = read_plain(self.path, MAX_TEXT)[:before].rpartition(b"\n")
        text = whole.decode(errors="replace").replace("\0", "\ufffd")  # which Python 3.10 refuses
        # Line by line, because a damaged byte may be the first quotation mark of a long text.
        lines = [_cells(line) for line in text.splitlines()]
        columns = lines.pop(0) if lines else []
        rows = [dict(zip(columns, line, strict=True)) for line in lines if _fits(line, columns)]
        self._damaged = len(rows) < len(lines)
        return [{column: value for column, value in row.items() if value} for row in rows]


def _cells(line: str) -> list[str]:
    try:
        return next(csv.reader([line]), [])
    except csv.Error:  # longer than a cell may be
        return []


def _fits(line: list[str], columns: list[str]) -> bool:
    """Whether a row has a step, only numbers, and as many of them as there are columns."""
    try:
        int(line[columns.index("step")])
        numbers = [float(value) for value in line if value]
    except (ValueError, IndexError):
        return False
    return len(line) == len(columns) and len(numbers) > 0
