"""Kinds of files that `python -m datamodules.pack` reads: archives, tables, lists of classes."""

from __future__ import annotations

import gzip
import json
from functools import partial
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

import datamodules.pack.describe
import datamodules.pack.index
import datamodules.pack.sources.humans
import datamodules.pack.sources.imagefolder
import datamodules.pack.sources.parquet
import datamodules.pack.sources.table
import datamodules.pack.sources.wds
import datamodules.pack.verify
from datamodules.pack import options
from tests.datamodules.pack.builders import image, tar_of, write
from tests.soak.fuzz import archives, arrays, mutations
from tests.soak.fuzz.reading import Kind, run

PACK = datamodules.pack
TARS = (archives.tar_members, archives.tar_members, mutations.some_bytes)
WNIDS = ("n01440764", "n01443537", "n01484850")


def shard() -> bytes:
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
    plain, packed = "train-0.tar", "train-0.tar.gz"
    csv, rows = "labels.csv", "train-0.parquet"
    commas = (mutations.fields(","), mutations.some_bytes)
    gz = tuple(map(archives.gzipped, TARS))
    columns = arrays.parquet_columns(b"huggingface")
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
        "csv": Kind(tables, csv, _csv_files, commas, partial(_csv, csv), ("images of",)),
        "parquet": Kind(
            tables,
            rows,
            parquet_file,
            (columns, mutations.last_bytes, mutations.some_bytes),
            parquet,
            _SPLITS,
        ),
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
