"""Packs ILSVRC2012 as downloaded: its archives, without unpacking them, or Kaggle's folders.

examples:
  # downloads/ has ILSVRC2012_img_train.tar, ILSVRC2012_img_val.tar and the
  # devkit with the validation labels, ILSVRC2012_devkit_t12.tar.gz
  python -m datamodules.pack ilsvrc downloads/ packed/

  # Kaggle's imagenet-object-localization-challenge.zip, unzipped: it has
  # ILSVRC/, LOC_val_solution.csv and LOC_synset_mapping.txt
  python -m datamodules.pack ilsvrc kaggle/ packed/

  # the validation labels from a text file instead
  python -m datamodules.pack ilsvrc downloads/ packed/ --val_labels val.txt

Makes packed/train and packed/val. After an interruption, the same command
resumes.
"""

# The train archive is a tar of one tar per class. Its members' offsets are listed once; from then
# on any image is one seek away, so shuffling needs neither unpacking nor a second reading.

from __future__ import annotations

import io
import re
import resource
import tarfile
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np

from datamodules.common.errors import printable
from datamodules.common.folders import natural_key
from datamodules.decoding.folders import SUFFIXES
from datamodules.pack.classes import names_of
from datamodules.pack.options import IlsvrcOptions
from datamodules.pack.packing import pack
from datamodules.pack.sources import kaggle
from datamodules.pack.sources.kaggle import in_order, read_val_labels
from datamodules.pack.sources.listing import (
    Listing,
    Problem,
    Source,
    tabulate,
    to_rows,
)
from datamodules.pack.sources.tars import Member, members
from datamodules.processes.pool import Pool, WorkerKilled, advance

TRAIN = "ILSVRC2012_img_train.tar"
VAL = "ILSVRC2012_img_val.tar"
DEVKIT = "ILSVRC2012_devkit_t12.tar.gz"

_MAX_BYTES = 1 << 26  # of a file of the devkit: the real ones have less than one million

_NO_IMAGE = "its name is not that of an image"

_Devkit = tuple[dict[str, str], tuple[str, ...]]
"""Names by wnid, and the wnid of each validation image in the order of the file names."""


def run(options: IlsvrcOptions) -> None:
    """Run the command."""
    pack(options, [options.src], partial(_list_ilsvrc, options))


def _list_ilsvrc(
    options: IlsvrcOptions, pool: Pool, progress: Callable[[int], Any]
) -> list[Listing]:
    """List the archives; a class's label is its place among the sorted wnids."""
    root, val_labels = options.src, options.val_labels
    if (root / kaggle.IMAGES).is_dir():
        return kaggle.list_splits(root, options.class_names, val_labels)
    train, val, devkit_path = root / TRAIN, root / VAL, root / DEVKIT
    if not train.is_file() and not val.is_file():
        raise ValueError(
            f"{root} has neither {TRAIN} nor {VAL} nor Kaggle's {kaggle.IMAGES}/; SRC is the "
            "folder of downloads"
        )
    has_devkit = devkit_path.is_file()
    names, val_wnids = _read_devkit(devkit_path) if has_devkit else ({}, ())

    def named(classes: tuple[str, ...]) -> tuple[str, ...]:
        if options.class_names:
            return names_of(classes, options.class_names)
        return tuple(names.get(wnid, wnid) for wnid in classes)

    listings = []
    classes: tuple[str, ...] = ()
    if train.is_file():
        inner = sorted(_inner_archives(train))
        classes = tuple(sorted({wnid for wnid, _, _ in inner}))
        tasks = [(train, start, size, wnid, classes.index(wnid)) for wnid, start, size in inner]
        parts = pool.run(_list_class, tasks, progress)
        entries = tabulate(rows for rows, _ in parts)
        others = tuple(problem for _, left_out in parts for problem in left_out)
        source = Source(root, (train,))
        listings.append(Listing("train", source, entries, classes, named(classes), left_out=others))
    if val.is_file():
        if val_labels is None and not has_devkit:
            raise ValueError(
                f"{root} has no {DEVKIT}, so the labels of {VAL} are unknown; "
                "put it there or give --val_labels FILE"
            )
        files, left_out = _val_images(val)
        labels = (
            read_val_labels(val_labels, files)
            if val_labels is not None
            else in_order(files, val_wnids, devkit_path)
        )
        classes = classes or tuple(sorted(set(labels.values())))
        if unknown := sorted(set(labels.values()) - set(classes)):
            raise ValueError(
                f"the validation labels name the class {unknown[0]!r}, which {TRAIN} does not have"
            )
        mtime = val.stat().st_mtime_ns
        places = {wnid: label for label, wnid in enumerate(classes)}
        rows = [
            (0, member.offset_data, member.size, mtime, places[labels[name]], _encoded(name))
            for name, member in files.items()
        ]
        entries, source = tabulate([to_rows(rows)]), Source(root, (val,))
        listings.append(
            Listing("val", source, entries, classes, named(classes), left_out=tuple(left_out))
        )
    return listings


def _read_devkit(path: Path) -> _Devkit:
    """Read the devkit in a process of its own, because damaged bytes make scipy crash.

    Raises:
        ValueError: It is not the devkit, or is damaged.
    """
    with Pool(1) as process:
        try:
            return process.run(_parse_devkit, [path], lambda done: None)[0]
        except WorkerKilled:
            raise _damaged(path, "reading it crashed") from None


def _damaged(path: Path, reason: str) -> ValueError:
    return ValueError(
        f"{path} is not the devkit of ILSVRC2012, or is damaged ({reason}); download it again"
    )


def _parse_devkit(path: Path) -> _Devkit:
    from scipy.io import loadmat  # slow to import, and only this source needs it

    _limit_memory()
    wanted = {"meta.mat": b"", "ILSVRC2012_validation_ground_truth.txt": b""}
    try:
        with tarfile.open(path, "r:*", tarinfo=Member) as archive:
            for member in archive:
                name = PurePosixPath(member.name).name
                if name in wanted and (file := archive.extractfile(member)) is not None:
                    wanted[name] = file.read(_MAX_BYTES)
        meta, truth = wanted.values()
        synsets = np.atleast_1d(loadmat(io.BytesIO(meta), squeeze_me=True)["synsets"])
        # Synsets with children in the WordNet tree are not labels.
        leaves = [row for row in synsets if int(row["num_children"]) == 0]
        wnids = {int(row["ILSVRC2012_ID"]): str(row["WNID"]) for row in leaves}
        names = {str(row["WNID"]): str(row["words"]) for row in leaves}
        val_wnids = tuple(wnids[int(line)] for line in truth.decode("ascii").split())
    except Exception as error:  # scipy and tarfile raise anything on damaged bytes
        if getattr(error, "errno", None) is not None:
            raise  # of the machine; scipy's own OSErrors have no number
        raise _damaged(path, printable(f"{type(error).__name__}: {error}"[:120])) from None
    return names, val_wnids


def _limit_memory() -> None:
    """Let this process, which is for the devkit alone, take little more than it has."""
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    most = pages * resource.getpagesize() + 16 * _MAX_BYTES
    _, hard = resource.getrlimit(resource.RLIMIT_AS)
    allowed = most if hard == resource.RLIM_INFINITY else min(most, hard)
    resource.setrlimit(resource.RLIMIT_AS, (allowed, hard))


def _inner_archives(train: Path) -> list[tuple[str, int, int]]:
    """Wnid, offset and size of each class's archive."""
    inner = []
    for member in members(train):
        path = PurePosixPath(member.name)
        if path.suffix == ".tar" and re.fullmatch(r"\w+", path.stem):
            inner.append((path.stem, member.offset_data, member.size))
    if not inner or len({wnid for wnid, _, _ in inner}) < len(inner):
        raise ValueError(f"{train} is not the ILSVRC2012 train archive: it needs one tar per class")
    return inner


def _list_class(task: tuple[Path, int, int, str, int]) -> tuple[np.ndarray, list[Problem]]:
    train, start, size, wnid, label = task
    mtime = train.stat().st_mtime_ns
    rows, left_out = [], []
    for name, member in _named(members(train, start, size)):
        if not name.lower().endswith(SUFFIXES):
            left_out.append((f"{wnid}/{name}", _NO_IMAGE))
            continue
        encoded = _encoded(f"{wnid}/{name}")
        rows.append((0, member.offset_data, member.size, mtime, label, encoded))
        advance()
    if not rows:
        raise ValueError(f"{wnid}.tar in {train} has no images")
    return to_rows(rows), left_out


def _val_images(val: Path) -> tuple[dict[str, tarfile.TarInfo], list[Problem]]:
    """The archive's images in the order of their names, and its other files."""
    files: dict[str, tarfile.TarInfo] = {}
    left_out = []
    for name, member in _named(members(val)):
        if not name.lower().endswith(SUFFIXES):
            left_out.append((name, _NO_IMAGE))
        elif files.setdefault(name, member) is not member:
            raise ValueError(f"{val} has two images called {printable(name)}")
    if not files:
        raise ValueError(f"{val} has no images")
    return dict(sorted(files.items(), key=lambda item: natural_key(item[0]))), left_out


def _named(found: Iterable[tarfile.TarInfo]) -> Iterator[tuple[str, tarfile.TarInfo]]:
    """Members that are not hidden, with their names without folders."""
    named = ((PurePosixPath(member.name).name, member) for member in found)
    return (each for each in named if not each[0].startswith("."))


def _encoded(name: str) -> bytes:
    return name.encode("utf-8", "surrogateescape")
