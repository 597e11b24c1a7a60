"""Kinds of files that `python -m datamodules.pack` reads: archives, tables, lists of classes."""

from __future__ import annotations

import gzip
import io
import json
import os
import pickle
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from scipy.io import savemat

import datamodules.pack.describe
import datamodules.pack.index
import datamodules.pack.sources.humans
import datamodules.pack.sources.ilsvrc
import datamodules.pack.sources.imagefolder
import datamodules.pack.sources.parquet
import datamodules.pack.sources.table
import datamodules.pack.sources.wds
import datamodules.pack.verify
from datamodules.common.pool import WorkerKilled
from datamodules.pack import options
from datamodules.pack.sources import ilsvrc
from tests.datamodules.pack.builders import image, tar_of, write
from tests.soak.fuzz import archives, arrays, mutations
from tests.soak.fuzz.reading import Kind, OnePool, run

PACK = datamodules.pack
BYTES = (mutations.some_bytes,)
TARS = (archives.tar_members, archives.tar_members, mutations.some_bytes)
WNIDS = ("n01440764", "n01443537", "n01484850")


def shard(classes: bool = True) -> bytes:
    """A shard of three samples, as webdataset has them."""
    facts = [json.dumps({"class_id": wnid, "class_name": wnid[1:]}).encode() for wnid in WNIDS]
    parts = [(("cls", b"%d" % at), ("jpg", image(at)), ("json", facts[at])) for at in range(3)]
    return tar_of([(f"{at}.{suffix}", data) for at in range(3) for suffix, data in parts[at]])


def out(folder: Path) -> dict[str, Any]:
    return {"out": folder / "out", "workers": 1}


def _wds(name: str, folder: Path) -> None:
    run(PACK.sources.wds, options.WdsOptions(src=[str(folder / name)], **out(folder)))


def _index(folder: Path) -> None:
    run(PACK.index, options.IndexOptions(src=[str(folder / "train-0.tar")], **out(folder)))


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
    run(PACK.sources.ilsvrc, options.IlsvrcOptions(src=folder, **more, **out(folder)))


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


def image_folder(folder: Path, **splits: int) -> Path:
    for split, count in splits.items():
        for at in range(count):
            write(folder / "images" / split / WNIDS[at % 3] / f"{split}{at}.jpg", image(at))
    return folder / "images"


def _csv(name: str, folder: Path) -> None:
    run(PACK.sources.table, options.CsvOptions(src=[folder / name], **out(folder)))


def _csv_files(folder: Path) -> None:
    image_folder(folder, train=3, val=3)
    lines = [
        f"images/{s}/{w}/{s}{at}.jpg,{w},{s}"
        for s in ("train", "val")
        for at, w in enumerate(WNIDS)
    ]
    write(folder / "labels.csv", "\n".join(["path,label,split", *lines, ""]).encode())


def parquet_file(folder: Path) -> None:
    rows = [{"bytes": image(at), "path": f"{WNIDS[at]}_{at}.jpg"} for at in range(3)]
    features = {"info": {"features": {"label": {"names": list(WNIDS), "_type": "ClassLabel"}}}}
    table = pa.table({"image": rows, "label": [0, 1, 2]})
    table = table.replace_schema_metadata({"huggingface": json.dumps(features)})
    pq.write_table(table, folder / "train-0.parquet")


def parquet(folder: Path) -> None:
    source = [str(folder / "train-0.parquet")]
    run(PACK.sources.parquet, options.ParquetOptions(src=source, **out(folder)))


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


def _imagefolder(folder: Path, **more: Any) -> None:
    given = options.ImageFolderOptions(src=folder / "images", **more, **out(folder))
    run(PACK.sources.imagefolder, given)


def _class_names(name: str, folder: Path) -> None:
    _imagefolder(folder, class_names=folder / name)


def _class_files(name: str, text: str, folder: Path) -> None:
    image_folder(folder, train=3)
    write(folder / name, text.encode())


def _classes(name: str, folder: Path) -> None:
    run(
        PACK.sources.imagefolder,
        options.ImageFolderOptions(
            src=folder / "images" / "train", classes=folder / name, **out(folder)
        ),
    )


def human_files(folder: Path) -> None:
    root = folder / "toolbox"
    for at, category in enumerate(("dog", "cat", "oven")):
        write(root / "datasets" / "sketch" / category / f"{category}{at}.png", image(at, "PNG"))
    head = "subj,session,trial,rt,object_response,category,condition,imagename"
    lines = [
        f"subject-01,1,{at},0.5,dog,{c},0,0001_sk_s01_0_{c}_0_{c}{at}.png"
        for at, c in enumerate(("dog", "cat", "oven"))
    ]
    write(
        root / "raw-data" / "sketch" / "sketch_subject-01_session_1.csv",
        "\n".join([head, *lines, ""]).encode(),
    )


def humans(folder: Path) -> None:
    run(PACK.sources.humans, options.HumansOptions(src=folder / "toolbox", **out(folder)))


_INDEX_JSON = json.dumps({str(at): [wnid, f"fish {at}"] for at, wnid in enumerate(WNIDS)})
_CLASSES_TSV = "".join(f"{wnid}\tfish {wnid}\n" for wnid in WNIDS)
_ANSWERS = "toolbox/raw-data/sketch/sketch_subject-01_session_1.csv"
_LISTS = (mutations.fields("\t"), mutations.some_bytes)
_JSON = (mutations.json_values, mutations.json_values, mutations.some_bytes)
_SPLITS = ("train shards", "train files", "images of train")


def _kinds() -> dict[str, Kind]:
    tars, tables, lists = "tars to pack", "tables to pack: CSV, Parquet", "lists of classes"
    devkit = "the devkit of ImageNet, MATLAB"
    plain, packed = "train-0.tar", "train-0.tar.gz"
    csv, rows = "labels.csv", "train-0.parquet"
    commas = (mutations.fields(","), mutations.some_bytes)
    gz = tuple(map(archives.gzipped, TARS))
    mat = archives.gzipped(archives.in_tar("meta.mat", mutations.some_bytes))
    columns = arrays.parquet_columns(b"huggingface")
    kits = {"val": _val(), "devkit": _devkit()}
    with_labels = {"val": _val(), "labels": "\n".join(WNIDS).encode()}
    return {
        "wds": Kind(
            tars, plain, lambda f: write(f / plain, shard()), TARS, partial(_wds, plain), _SPLITS
        ),
        "wds-gz": Kind(
            tars,
            packed,
            lambda f: write(f / packed, gzip.compress(shard(), mtime=0)),
            gz,
            partial(_wds, packed),
            _SPLITS,
        ),
        "index": Kind(tars, plain, lambda f: write(f / plain, shard()), TARS, _index, _SPLITS),
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
        "csv": Kind(tables, csv, _csv_files, commas, partial(_csv, csv), ("images of",)),
        "parquet": Kind(
            tables,
            rows,
            parquet_file,
            (columns, mutations.last_bytes, mutations.some_bytes),
            parquet,
            _SPLITS,
        ),
        "val-labels": Kind(
            tables, "val.txt", lambda f: _ilsvrc_files(f, **with_labels), commas, _ilsvrc
        ),
        "kaggle-labels": Kind(tables, ilsvrc.kaggle.VAL_LABELS, _kaggle_files, commas, _ilsvrc),
        "kaggle-names": Kind(lists, ilsvrc.kaggle.NAMES, _kaggle_files, _LISTS, _ilsvrc),
        "class-names-json": Kind(
            lists,
            "index.json",
            partial(_class_files, "index.json", _INDEX_JSON),
            _JSON,
            partial(_class_names, "index.json"),
        ),
        "class-names-text": Kind(
            lists,
            "names.txt",
            partial(_class_files, "names.txt", _CLASSES_TSV),
            _LISTS,
            partial(_class_names, "names.txt"),
        ),
        "classes": Kind(
            lists,
            "index.json",
            partial(_class_files, "index.json", _INDEX_JSON),
            _JSON,
            partial(_classes, "index.json"),
            ("--classes",),
        ),
        "human-answers": Kind(
            "answers of humans, CSV", _ANSWERS, human_files, commas, humans, ("raw-data",)
        ),
    }


KINDS = _kinds()
