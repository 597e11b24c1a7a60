"""Kinds of files that ImageNet is downloaded as: archives, the devkit, tables of labels."""

from __future__ import annotations

import gzip
import io
import os
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from scipy.io import savemat

from datamodules.pack import options
from datamodules.pack.sources import ilsvrc
from datamodules.processes.pool import WorkerKilled
from tests.datamodules.pack.builders import image, tar_of, write
from tests.soak.fuzz import archives, mutations
from tests.soak.fuzz.packs import TARS, WNIDS, out
from tests.soak.fuzz.reading import Kind, OnePool, run


def _inner() -> list[tuple[str, bytes]]:
    """A tar for each class."""
    names = {wnid: [(f"{wnid}_{at}.JPEG", image(at)) for at in range(2)] for wnid in WNIDS}
    return [(f"{wnid}.tar", tar_of(members)) for wnid, members in names.items()]


def _val() -> bytes:
    return tar_of([(f"ILSVRC2012_val_{at:08}.JPEG", image(at)) for at in (1, 2, 3)])


def _devkit() -> bytes:
    kinds = [("ILSVRC2012_ID", "<f8"), ("WNID", "O"), ("words", "O"), ("num_children", "<f8")]
    rows = [(at, wnid, "a fish", 0.0) for at, wnid in enumerate(WNIDS, 1)]
    meta = io.BytesIO()
    savemat(meta, {"synsets": np.array(rows, kinds)})
    text = bytearray(meta.getvalue())
    text[:116] = b"MATLAB 5.0 MAT-file".ljust(116)  # scipy writes the time
    members = [
        ("d/data/meta.mat", bytes(text)),
        ("d/data/ILSVRC2012_validation_ground_truth.txt", b"3\n1\n2\n"),
    ]
    return gzip.compress(tar_of(members), mtime=0)


def _ilsvrc(folder: Path) -> None:
    labels = folder / "val.txt"
    more = {"val_labels": labels} if labels.exists() else {}
    run(ilsvrc, options.IlsvrcOptions(src=folder, **more, **out(folder)))


def _ilsvrc_files(folder: Path, **files: bytes) -> None:
    names = {"train": ilsvrc.TRAIN, "val": ilsvrc.VAL, "devkit": ilsvrc.DEVKIT, "labels": "val.txt"}
    for name, data in files.items():
        write(folder / names[name], data)


class _ForkedPool(OnePool):
    """A pool whose process may crash, as that of the devkit, and costs less than a new Python."""

    def run(self, function: Callable[[Any], Any], tasks: Any, progress: Any) -> list[Any]:
        reader, writer = os.pipe()
        child = os.fork()
        if not child:
            try:
                answer: Any = True, [function(task) for task in tasks]
            except BaseException as error:
                answer = False, error
            with os.fdopen(writer, "wb") as file:
                pickle.dump(answer, file)
            os._exit(0)
        os.close(writer)
        with os.fdopen(reader, "rb") as file:
            data = file.read()
        if os.waitpid(child, 0)[1]:
            raise WorkerKilled("a worker was killed")
        is_answer, value = pickle.loads(data)
        if not is_answer:
            raise value
        return value


def _with_devkit(folder: Path) -> None:
    pool, ilsvrc.Pool = ilsvrc.Pool, _ForkedPool
    try:
        _ilsvrc(folder)
    finally:
        ilsvrc.Pool = pool


def _kaggle_files(folder: Path) -> None:
    for at, wnid in enumerate(WNIDS, 1):
        write(folder / ilsvrc.kaggle.IMAGES / "train" / wnid / f"{wnid}_{at}.JPEG", image(at))
        write(folder / ilsvrc.kaggle.IMAGES / "val" / f"ILSVRC2012_val_{at:08}.JPEG", image(at))
    lines = [f"ILSVRC2012_val_{at:08},{wnid} 1 2 3 4" for at, wnid in enumerate(WNIDS, 1)]
    write(
        folder / ilsvrc.kaggle.VAL_LABELS,
        "\n".join(["ImageId,PredictionString", *lines, ""]).encode(),
    )
    names = "".join(f"{wnid} a fish, {wnid}\n" for wnid in WNIDS)
    write(folder / ilsvrc.kaggle.NAMES, names.encode())


def _kinds() -> dict[str, Kind]:
    tars, tables, lists = "tars to pack", "tables to pack: CSV, Parquet", "lists of classes"
    devkit = "the devkit of ImageNet, MATLAB"
    commas = (mutations.fields(","), mutations.some_bytes)
    words = (mutations.fields("\t"), mutations.some_bytes)
    gz = tuple(map(archives.gzipped, TARS))
    mat = archives.gzipped(archives.in_tar("meta.mat", mutations.some_bytes))
    kits = {"val": _val(), "devkit": _devkit()}
    with_labels = {"val": _val(), "labels": "\n".join(WNIDS).encode()}
    return {
        "imagenet-train": Kind(
            tars, ilsvrc.TRAIN, lambda f: _ilsvrc_files(f, train=tar_of(_inner())), TARS, _ilsvrc
        ),
        "imagenet-val": Kind(
            tars, ilsvrc.VAL, lambda f: _ilsvrc_files(f, **with_labels), TARS, _ilsvrc, ("val.txt",)
        ),
        "devkit": Kind(devkit, ilsvrc.DEVKIT, lambda f: _ilsvrc_files(f, **kits), gz, _with_devkit),
        "matlab": Kind(
            devkit, ilsvrc.DEVKIT, lambda f: _ilsvrc_files(f, **kits), (mat,), _with_devkit
        ),
        "val-labels": Kind(
            tables, "val.txt", lambda f: _ilsvrc_files(f, **with_labels), commas, _ilsvrc
        ),
        "kaggle-labels": Kind(tables, ilsvrc.kaggle.VAL_LABELS, _kaggle_files, commas, _ilsvrc),
        "kaggle-names": Kind(lists, ilsvrc.kaggle.NAMES, _kaggle_files, words, _ilsvrc),
    }


KINDS = _kinds()
