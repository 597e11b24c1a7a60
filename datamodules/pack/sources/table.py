"""Packs the images that a table names: CSV or TSV, with a line per image.

examples:
  # the columns path, label and split (train, val or test)
  python -m datamodules.pack csv photos/labels.csv packed/

  # two tables without such a column
  python -m datamodules.pack csv train.csv val.csv packed/

  # a fifth of the patients for validation, each of them in one split only
  python -m datamodules.pack csv scans.csv packed/ --images scans/ \\
    --path file --label finding --group patient --val_share 0.2

Makes packed/train and packed/val. Paths are relative to the folder of the
table, or to --images. Files that are missing count as unreadable images. After
an interruption, the same command resumes.
"""

from __future__ import annotations

import csv
import hashlib
import io
import os
from collections import defaultdict
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from datamodules.common.errors import printable
from datamodules.common.texts import read_text
from datamodules.decoding.folders import SUFFIXES
from datamodules.pack.classes import names_of
from datamodules.pack.options import CsvOptions
from datamodules.pack.packing import classes_of_other_split, console, pack
from datamodules.pack.sources.imagefolder import rows_of_files
from datamodules.pack.sources.listing import Listing, Problem, Source, tabulate
from datamodules.pack.sources.locations import SPLITS_AND_TEST, split_of

SPLIT = "split"
"""The column that is looked for if no other is named."""


class Row(NamedTuple):
    """An image of a table."""

    place: str  # `line 7 of labels.csv`
    path: str  # of the file
    name: str  # the path as it is written
    label: str
    split: str  # `train`, `val` or `test`; empty if a rule decides
    group: str  # empty if there are no groups


def run(options: CsvOptions) -> None:
    """Run the command."""
    pack(options, options.src, lambda *_: _list_tables(options))


def in_val(group: str, share: float, seed: int) -> bool:
    """Whether a group is for validation: its hash decides, and so nothing else in the table."""
    digest = hashlib.blake2b(group.encode(), digest_size=8, key=b"%d" % seed, person=b"split")
    return int.from_bytes(digest.digest(), "big") < share * (1 << 64)


def _list_tables(options: CsvOptions) -> list[Listing]:
    folders = {table: options.images or table.parent for table in options.src}
    rows = [row for table, folder in folders.items() for row in _rows(options, table, folder)]
    _check_unique(rows)
    by_split = divide(options, rows)
    known = classes_of_other_split(options.out, by_split)
    labels = {split: {row.label for row in part} - {""} for split, part in by_split.items()}
    found = set().union(*labels.values())
    classes = known if found <= set(known) else tuple(sorted(found))
    if lacking := sorted(found - labels.get("train", found)):
        console.print(
            f"note: train has no image of {len(lacking)} of the classes, such as {lacking[0]!r}",
            markup=False,
        )
    root = os.path.commonpath([os.path.abspath(folder) for folder in folders.values()])
    places = {name: label for label, name in enumerate(classes)}
    return [
        Listing(
            split,
            Source(Path(root)),
            tabulate(
                [rows_of_files(Path(root), {r.path: places[r.label] for r in part if r.label})]
            ),
            classes,
            names_of(classes, options.class_names),
            problems=tuple(_problem(row) for row in part if not row.label),
        )
        for split, part in by_split.items()
    ]


def _problem(row: Row) -> Problem:
    return f"{row.place}: {printable(os.path.basename(row.path))}", "no label"


def _rows(options: CsvOptions, table: Path, folder: Path) -> Iterator[Row]:
    text = read_text(table)
    delimiter = max(",\t;", key=text.partition("\n")[0].count)
    reader = csv.DictReader(io.StringIO(text, newline=""), delimiter=delimiter)
    columns = [name.strip() for name in reader.fieldnames or ()]
    reader.fieldnames = columns

    of_table = _check_columns(options, table, columns)
    try:
        for fields in reader:
            place = f"line {reader.line_num} of {table.name}"
            if None in fields:
                raise ValueError(f"{place} has more fields than the first; quote those with commas")
            row = {name: (value or "").strip() for name, value in fields.items()}
            split = of_table or _split_in(row.get(options.split, ""), place, options)
            group = row[options.group] if options.group else ""
            if "\0" in row[options.path]:
                raise ValueError(f"{place} has a zero byte in the column {options.path!r}")
            for column in (options.path, *([options.group] if options.group else ())):
                if not row[column]:
                    raise ValueError(f"{place} has nothing in the column {column!r}")
            path = _find(folder, row[options.path])
            yield Row(place, path, row[options.path], row[options.label], split, group)
    except csv.Error as error:
        raise ValueError(f"line {reader.line_num} of {table} is not CSV ({error})") from None


def _check_columns(options: CsvOptions, table: Path, columns: Sequence[str]) -> str:
    """Check that the columns are there; returns the split that the table's name says, if needed."""
    needed = {"path": options.path, "label": options.label, "group": options.group}
    if options.split != SPLIT:
        needed["split"] = options.split
    for flag, column in needed.items():
        if column and column not in columns:
            raise ValueError(
                f"{table} has no column {column!r}: it has {', '.join(columns)}; "
                f"give --{flag} COLUMN"
            )
    if options.split in columns:
        if options.val_share:
            raise ValueError(
                f"{table} is split by its column {options.split!r}; leave --val_share out, or "
                "rename the column"
            )
        return ""
    if options.val_share:
        return ""
    try:
        return split_of(str(table.absolute()))
    except ValueError:
        raise ValueError(
            f"{table} has no column {SPLIT!r}, and its name says neither train nor val; give "
            "--split COLUMN, or --val_share and, for images that belong together, --group"
        ) from None


def _split_in(word: str, place: str, options: CsvOptions) -> str:
    if options.val_share:
        return ""
    known = SPLITS_AND_TEST.items()
    split = next((split for split, words in known if word.lower() in words), None)
    if split is None:
        raise ValueError(f"{place} has the split {word!r}; write train, val or test")
    return split


def _find(folder: Path, name: str) -> str:
    """Path of a file that may be written without its suffix, or with backslashes."""
    path = os.path.abspath(folder / name)
    if os.path.exists(path):
        return path
    others = (os.path.abspath(folder / name.replace("\\", "/")), *(path + s for s in SUFFIXES))
    return next((other for other in others if os.path.exists(other)), path)


def _check_unique(rows: Sequence[Row]) -> None:
    seen: dict[str, Row] = {}
    for row in rows:
        if (other := seen.setdefault(row.path, row)) is not row:
            raise ValueError(f"{row.place} names the image of {other.place} again: {row.path}")


def divide(options: CsvOptions, rows: Sequence[Row]) -> dict[str, list[Row]]:
    """The rows of each split; `test` is taken if there is no validation."""
    by_split: dict[str, list[Row]] = defaultdict(list)
    owners: dict[str, Row] = {}
    for row in rows:
        split = row.split
        if options.val_share:
            is_val = in_val(row.group or row.name, options.val_share, options.seed)
            split = "val" if is_val else "train"
        elif row.group and (other := owners.setdefault(row.group, row)).split != split:
            raise ValueError(
                f"the {options.group} {row.group!r} is in {other.split} ({other.place}) and in "
                f"{split} ({row.place}); --val_share splits by {options.group}"
            )
        by_split[split].append(row)
    if not rows:
        raise ValueError(f"{' and '.join(map(str, options.src))} has no images")
    if options.val_share:
        _tell(options, by_split)
    if test := by_split.pop("test", []):
        if "val" in by_split:
            console.print(f"note: the {len(test):,} images of test are left out")
        else:
            by_split["val"] = test
    return dict(sorted(by_split.items()))


def _tell(options: CsvOptions, by_split: dict[str, list[Row]]) -> None:
    """Say how a rule has split the rows; refuse an empty split."""
    counts = {s: len({row.group or row.name for row in by_split[s]}) for s in ("train", "val")}
    unit = f"values of {options.group!r}" if options.group else "images"
    if not all(counts.values()):
        raise ValueError(
            f"--val_share {options.val_share} puts {counts['val']} of {sum(counts.values())} "
            f"{unit} into val; give another share or --seed"
        )
    console.print(f"val has {counts['val']:,} of the {sum(counts.values()):,} {unit}")
