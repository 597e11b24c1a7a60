"""Measure networks image by image, in any number of processes; after a stop, the same command goes on.

The chosen images are cut into parts of 512, or fewer where there are few. A part is measured in batches and written when it is whole, so a stop costs
each process one part at most, and what is in a part does not depend on how many processes there are. When a network's
parts are all there, they become one file:

    OUT/NAME/parts/LABEL/part-00012.parquet
    OUT/NAME/LABEL.parquet                    one row an image, by sample_id

Each file holds the record of what was measured, and what is there is never measured again.
"""

from __future__ import annotations

import argparse
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from rich.console import Console
from torch import nn

from bagnet.experiments.measuring.parts import PartFiles, read_file, read_record, record_in
from bagnet.experiments.measuring.processes import Job, Measurement, Task, run_job
from bagnet.model.registry import MODELS
from bagnet.model.weights import load_model
from datamodules.imagenet import ImageNetDataModule
from datamodules.shards.manifest import sha256_of

PART = 512
"""Images in a part, at most."""


@dataclass(frozen=True)
class Subject:
    """A network to measure.

    Attributes:
        label: Its name in ``models.MODELS``; or anything that can name a file, for a checkpoint of ours, which knows the
            name itself.
        path: The file of its weights.
    """

    label: str
    path: Path

    @classmethod
    def parse(cls, text: str) -> Subject:
        """From ``LABEL=FILE``."""
        label, _, path = text.partition("=")
        if not re.fullmatch(r"\w[\w.-]*", label) or not path:
            raise argparse.ArgumentTypeError(
                f"{text!r} is not LABEL=FILE, such as bagnet33=runs/bagnet33/checkpoints/best.ckpt"
            )
        return cls(label, Path(path))

    def load(self, device: torch.device, num_classes: int) -> nn.Module:
        """The network in evaluation mode, on a device.

        Raises:
            ValueError: No weights of this network in the file, or of one with another number of classes.
        """
        model = load_model(self.path, self.label if self.label in MODELS else None)
        classes = [m.out_features for m in model.modules() if isinstance(m, nn.Linear)][-1]
        if classes != num_classes:
            raise ValueError(
                f"{self.label} ({self.path}) tells {classes} classes apart and the data has {num_classes}: "
                "give the weights of a network trained on this data, or the data it was trained on"
            )
        return model.to(device)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options that all experiments share."""
    parser.add_argument(
        "--models",
        nargs="+",
        type=Subject.parse,
        default=[],
        metavar="LABEL=FILE",
        help="weights to measure; without, what --out has is drawn again. LABEL is the network's name "
        f"({', '.join(MODELS)}), or anything for a checkpoint of ours, which knows its name",
    )
    parser.add_argument(
        "--data.root", dest="root", metavar="DIR", help="packed data; its validation split is used"
    )
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="of all results")
    parser.add_argument("--batch_size", type=positive, default=64, help="images at once")
    parser.add_argument("--image_size", type=positive, default=224, help="of the crop, px")
    parser.add_argument("--resize_size", type=positive, default=256, help="before the crop, px")
    parser.add_argument(
        "--limit", type=positive, metavar="N", help="images, spread over the split; default: all"
    )
    parser.add_argument("--gpus", type=int, help="0: use the CPU; default: all there are")
    parser.add_argument("--processes", type=positive, default=1, help="on the CPU")
    parser.add_argument("--workers", type=int, default=4, help="that decode, for each process")
    parser.add_argument("--wandb", action="store_true", help="log the results to W&B")


def positive(text: str) -> int:
    """An argparse type: 1 or more."""
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError(f"{text} is not 1 or more")
    return number


def measure(
    name: str, measurement: Measurement, options: argparse.Namespace
) -> dict[str, pa.Table]:
    """Measure what is missing of ``options.models``, and return all that ``OUT/NAME`` has then.

    Args:
        name: Of the folder, usually the experiment's.
        measurement: What is computed for each image.
        options: Those of ``add_arguments``.

    Returns:
        By label, in the order of ``models.MODELS`` and then by name: a row an image that could be read, by sample_id, with
        the columns sample_id, label and the measurement's.

    Raises:
        ValueError: Options that do not fit each other or the machine; results of another measurement in the folder;
            weights that do not fit; or nothing to draw.
    """
    folder = options.out / name
    if options.models:
        _measure_missing(folder, measurement, options)
    files = sorted(folder.glob("*.parquet"), key=_place)
    tables = {file.stem: read_file(file) for file in files}
    if not tables:
        raise ValueError(
            f"{folder} has no results to draw: measure first (--models LABEL=FILE ... --data.root DIR)"
        )
    _check_comparable(folder, {label: record_of(table) for label, table in tables.items()})
    for label, table in tables.items():
        if missing := record_of(table)["images"] - table.num_rows:
            print(f"{label}: {missing} images could not be read and are left out")
    return tables


def record_of(table: pa.Table) -> dict[str, Any]:
    """What a table of ``measure`` holds: measurement, weights and data (digests), image_size, resize_size, images,
    class_names."""
    return record_in(table.schema)


def part_size(images: int) -> int:
    """Images in a part: fewer where there are few, so that many processes have work, but enough for a GPU's batch."""
    return min(PART, max(64, -(-images // 32)))


def _measure_missing(folder: Path, measurement: Measurement, options: argparse.Namespace) -> None:
    if options.root is None:
        raise ValueError("--models needs the data to measure on: add --data.root DIR")
    labels = [subject.label for subject in options.models]
    if len(set(labels)) < len(labels):
        raise ValueError(f"--models names a label twice ({', '.join(labels)}): each needs its own")
    devices = _devices(options.gpus, options.processes)
    data = ImageNetDataModule(
        options.root,
        workers=0,
        image_size=options.image_size,
        resize_size=options.resize_size,
    )
    total = data.val_manifest.num_samples
    images = min(options.limit or total, total)
    size = part_size(images)
    parts = -(-images // size)
    ids = np.arange(images, dtype=np.int64) * total // images  # spread: shards may be sorted
    records = {file.stem: read_record(file) for file in folder.glob("*.parquet")}
    tasks = []
    for subject in options.models:
        if not subject.path.is_file():
            raise ValueError(f"there is no {subject.path} for {subject.label}: give a file")
        record = records[subject.label] = {
            "measurement": repr(measurement),
            "weights": sha256_of(subject.path),
            "data": data.val_manifest.digest,
            "image_size": options.image_size,
            "resize_size": options.resize_size,
            "images": images,
            "class_names": list(data.class_names),
        }
        files = PartFiles(folder, subject.label, record)
        if not files.is_there(files.whole):
            missing = tuple(n for n in range(parts) if not files.is_there(files.part(n)))
            if missing:
                subject.load(torch.device("cpu"), data.num_classes)  # fail before hours of others
            tasks.append(Task(subject, files, missing))
    _check_comparable(folder, records)
    job = Job(measurement, data, ids, tuple(tasks), size, options.batch_size, options.workers)
    run_job(f"{folder.name}: {len(tasks)} networks", job, devices, Console(stderr=True))
    for task in tasks:
        task.files.join(parts)


def _devices(gpus: int | None, processes: int) -> list[str]:
    """One for each process."""
    available = torch.cuda.device_count()
    gpus = available if gpus is None else gpus
    if not 0 <= gpus <= available:
        raise ValueError(
            f"--gpus {gpus}: this machine has {available}; ask for 0 (the CPU) to that"
        )
    if gpus and processes > 1:
        raise ValueError(
            f"--processes {processes} is for the CPU, and on GPUs there is one for each: leave it "
            "out, or add --gpus 0"
        )
    return [f"cuda:{number}" for number in range(gpus)] or ["cpu"] * processes


def _check_comparable(folder: Path, records: Mapping[str, Mapping[str, Any]]) -> None:
    """Raise a ValueError unless all networks were measured alike."""
    (first, expected), *others = records.items()
    for label, record in others:
        for key in expected:
            if key != "weights" and record[key] != expected[key]:
                raise ValueError(
                    f"{folder} has results that cannot be compared: {key} is {expected[key]} for {first} and "
                    f"{record[key]} for {label}; delete one file, or measure into another --out"
                )


def _place(file: Path) -> tuple[int, list[tuple[int, str]]]:
    """Sorts by the order of MODELS, all others behind, bagnet9 before bagnet33."""
    label = file.stem
    pieces = [(int(p or 0) if p.isdigit() else 0, p) for p in re.split(r"(\d+)", label)]
    return (MODELS.index(label) if label in MODELS else len(MODELS)), pieces
