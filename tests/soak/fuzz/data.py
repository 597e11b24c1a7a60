"""Kinds of files that packed data has: manifests, shards, states of a pack, records of audits."""

from __future__ import annotations

import contextlib
import hashlib
import json
import shutil
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

import datamodules.audit.command
import datamodules.pack.describe
import datamodules.pack.sources.imagefolder
import datamodules.pack.sources.parquet
import datamodules.pack.verify
from bagnet.experiments.decisions.humans import Decisions
from bagnet.experiments.explanations.pointing import load_planted
from datamodules.audit.options import AuditOptions
from datamodules.audit.writer import AuditWriter
from datamodules.common.batch import UNREADABLE
from datamodules.demo.generate import generate
from datamodules.imagenet import ImageNetDataModule
from datamodules.pack import job, options
from datamodules.shards.manifest import INDEX, MANIFEST, Manifest
from datamodules.shards.writer import write_shard
from tests.datamodules.pack.builders import image
from tests.soak.fuzz import arrays, mutations, packs
from tests.soak.fuzz.reading import Kind, Lost, Refused, run

_SHARD = "data/val/shard-000001.tar"
_PARTIAL = "state/train/.partial"


def packed(folder: Path) -> None:
    """Write six images for each split, in two shards, and keep the pixels of the validation."""
    for split in ("train", "val"):
        root = folder / "data" / split
        root.mkdir(parents=True)
        samples = [
            [(f"{split}{at}", image(at, size=40), at % 3) for at in part]
            for part in (range(3), range(3, 6))
        ]
        parts = [write_shard(root / f"shard-{at:06d}.tar", each) for at, each in enumerate(samples)]
        Manifest.assemble(root, packs.WNIDS, packs.WNIDS, parts).save()
    images, _, _ = _val(module(folder))
    np.save(folder / "pixels.npy", images.numpy())


def module(folder: Path) -> ImageNetDataModule:
    return ImageNetDataModule(str(folder / "data"), 2, 0, image_size=32, resize_size=32)


def _val(data: ImageNetDataModule) -> Any:
    batches = data.batches("val")
    ids = np.arange(min(6, batches.manifest.num_samples))
    return batches[0, ids][0]


def _read_data(folder: Path) -> None:
    """Verify, describe, and read as a training does; no image may be another than it was."""
    root = folder / "data"
    wrong = run(datamodules.pack.verify, options.VerifyOptions(out=root, workers=1))
    run(datamodules.pack.describe, options.DescribeOptions(out=root))
    data = module(folder)
    data.setup("fit")
    images, labels, _ = _val(data)
    sound = np.load(folder / "pixels.npy")
    for at, label in enumerate(labels.tolist()):
        if label != UNREADABLE and not (images[at].numpy() == sound[at]).all() and not wrong:
            raise Lost("an image has other pixels, and verify finds nothing wrong")


def _read_shard(folder: Path) -> None:
    """The same of a damaged shard: what is read is as it was."""
    shard = (folder / _SHARD).read_bytes()
    wrong = run(datamodules.pack.verify, options.VerifyOptions(out=folder / "data", workers=1))
    if not wrong and shard != (folder.with_suffix(".sound")).read_bytes():
        raise Lost("verify finds nothing wrong with a changed shard")
    images, labels, _ = _val(module(folder))
    sound = np.load(folder / "pixels.npy")
    for at, label in enumerate(labels.tolist()):
        if label != UNREADABLE and not (images[at].numpy() == sound[at]).all():
            raise Lost("an image has other pixels")


def _read_index(folder: Path) -> None:
    """The index is as the manifest says, so only its content can be wrong."""
    header = json.loads((folder / "data/val" / MANIFEST).read_text())
    data = (folder / "data/val" / INDEX).read_bytes()
    header |= {"index_sha256": hashlib.sha256(data).hexdigest(), "index_bytes": len(data)}
    (folder / "data/val" / MANIFEST).write_text(json.dumps(header))
    _read_data(folder)


def _pack_again(folder: Path) -> None:
    """Pack into a folder that has a damaged state; afterwards, nothing may be missing."""
    shutil.copytree(folder / "state", folder / "out")
    run(datamodules.pack.sources.imagefolder, _options(folder, folder / "out"))
    if run(datamodules.pack.verify, options.VerifyOptions(out=folder / "out", workers=1)):
        raise Lost("what was packed again has faults")


def _pack_state(folder: Path, finished: bool) -> None:
    packs.image_folder(folder, train=6)
    (folder / "images/train/stray.txt").write_text("left out, and named in skipped.tsv")
    with contextlib.nullcontext() if finished else _interrupted():
        run(datamodules.pack.sources.imagefolder, _options(folder, folder / "state"))


def _options(folder: Path, out: Path) -> options.ImageFolderOptions:
    return options.ImageFolderOptions(
        src=folder / "images", samples_per_shard=3, out=out, workers=1
    )


def _parquet_state(folder: Path) -> None:
    packs.parquet_file(folder)
    with _interrupted():
        packs.parquet(folder)
    (folder / "out").rename(folder / "state")


def _parquet_again(folder: Path) -> None:
    shutil.copytree(folder / "state", folder / "out")
    packs.parquet(folder)
    if run(datamodules.pack.verify, options.VerifyOptions(out=folder / "out", workers=1)):
        raise Lost("what was packed again has faults")


@contextlib.contextmanager
def _interrupted():
    """Let packing end before the manifest is written."""

    def stop(*_: Any) -> None:
        raise ValueError("stopped")

    assemble, job.Manifest.assemble = job.Manifest.assemble, stop
    try:
        with contextlib.suppress(Refused):
            yield
    finally:
        job.Manifest.assemble = assemble


def _write_audit(folder: Path) -> None:
    facts = {"num_samples": 8, "global_batch": 4, "accumulate": 1, "seed": 0, "dataset": "x"}
    for session in (1, 2):
        writer = AuditWriter(folder / "audit", session, 0, 1, facts)
        for step in range(2):
            writer.record(session - 1, step, [4 * step + at for at in range(4)], [1] * (step == 0))
        writer.close()


def _humans(folder: Path) -> None:
    packs.human_files(folder)
    packs.humans(folder)
    shutil.rmtree(folder / "data", ignore_errors=True)
    (folder / "out").rename(folder / "data")


def _planted(folder: Path) -> None:
    generate(folder / "data", {"train": 9, "val": 9}, 0)


def _kinds() -> dict[str, Kind]:
    data, state = "manifests, indices and shards", "unfinished packs"
    json_values = (mutations.json_values, mutations.json_values, mutations.some_bytes)
    index = (arrays.npy_header, arrays.npy_rows, mutations.some_bytes)
    commas = (mutations.fields(","), mutations.some_bytes)
    read_audit = lambda f: run(datamodules.audit.command, AuditOptions(f / "audit"))  # noqa: E731
    return {
        "manifest": Kind(
            data,
            f"data/val/{MANIFEST}",
            packed,
            json_values,
            _read_data,
            ("data/val", "classes in"),
        ),
        "index-rows": Kind(
            data, f"data/val/{INDEX}", packed, index, _read_index, ("data/val", "classes in")
        ),
        "shard": Kind(data, _SHARD, packed, (*packs.TARS, mutations.some_bytes), _read_shard),
        "pack-json": Kind(
            state,
            "state/train/pack.json",
            partial(_pack_state, finished=True),
            json_values,
            _pack_again,
            ("out/train",),
        ),
        "skipped-tsv": Kind(
            state,
            "state/train/skipped.tsv",
            partial(_pack_state, finished=True),
            (mutations.fields("\t"), mutations.some_bytes),
            _pack_again,
        ),
        "partial-shard": Kind(
            state,
            f"{_PARTIAL}/shard-000000.json",
            partial(_pack_state, finished=False),
            json_values,
            _pack_again,
        ),
        "partial-rows": Kind(
            state,
            f"{_PARTIAL}/rows-000000.npy",
            _parquet_state,
            (arrays.npy_header, mutations.some_bytes),
            _parquet_again,
        ),
        "audit": Kind(
            "records of audits",
            "audit/1-rank00000.jsonl",
            _write_audit,
            (mutations.json_lines, mutations.json_lines, mutations.some_bytes),
            read_audit,
            ("audit",),
        ),
        "answers": Kind(
            "answers of humans, CSV",
            "data/val/answers.csv",
            _humans,
            commas,
            lambda f: Decisions.of(module(f)),
        ),
        "planted": Kind(
            "results of experiments",
            "data/val/planted.json",
            _planted,
            json_values,
            lambda f: load_planted(module(f)),
        ),
    }


KINDS = _kinds()
