"""Measures models image by image on any number of processes, and resumes after a stop.

The chosen images are cut into parts of at most 512. A part is written when all its images are
measured, so a stop costs each process at most one part, and what is in a part does not depend on
the number of processes. When all parts of a model exist, they become one file:

    OUT/NAME/parts/LABEL/part-00012.parquet
    OUT/NAME/LABEL.parquet                    one row for each image, by sample_id

Each file records what was measured, and nothing is measured twice.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from torch import nn

from bagnet.experiments.measuring.models import ModelFile, parse_models, sizes_of
from bagnet.experiments.measuring.parts import (
    PartFiles,
    read_file,
    read_record,
    record_of,
    result_files,
)
from bagnet.experiments.measuring.processes import Job, Measurement, run_job, slices
from bagnet.experiments.options import MeasureOptions
from bagnet.model.network import BagNet
from bagnet.model.registry import MODELS
from datamodules.imagenet import ImageNetDataModule
from datamodules.plan import Ids
from datamodules.remote.urls import redacted, scheme_of
from datamodules.shards.manifest import sha256_of

PART = 512
"""The most images in a part."""


def measure(
    name: str,
    measurement: Measurement,
    options: MeasureOptions,
    models: Sequence[ModelFile] | None = None,
    *,
    check: Callable[[nn.Module], object] = lambda model: None,
    fewest: int = 1,
    samples: Sequence[int] | None = None,
    own_classes: bool = False,
) -> dict[str, pa.Table]:
    """Measure what is missing, and return everything that is then in `OUT/NAME`.

    Args:
        name: Name of the folder, usually the experiment's.
        measurement: What is computed for each image.
        options: The experiment's options.
        models: The models to measure; None takes those of the options.
        check: Called with each model before anything is measured; raises a ValueError if it cannot
            be measured.
        fewest: Fewest images that the experiment's statistics need.
        samples: Sample ids of the images to measure, ascending; by default, --limit chooses them.
        own_classes: Whether networks keep their outputs as they are, because the measurement knows
            what these mean for the data's classes. By default they have the data's, in its order.

    Returns:
        A table for each label, in the order of `registry.MODELS` and then by name. It has a row for
        each readable image, ordered by sample_id, with the columns sample_id, label and those of
        the measurement; `parts.record_of` reads from its schema what was measured.

    Raises:
        ValueError: Options that do not fit each other or the machine; results of another
            measurement in the folder; weights that do not fit; or nothing to draw.
    """
    folder = options.out / name
    models = parse_models(options.models) if models is None else models
    if models:
        _measure_missing(folder, measurement, models, options, check, fewest, samples, own_classes)
    tables = {file.stem: read_file(file) for file in sorted(result_files(folder), key=_place)}
    if not tables:
        raise ValueError(
            f"{folder} has no results to draw: measure first (--models LABEL=FILE ... "
            "--data.root DIR)"
        )
    records = {label: record_of(table.schema) for label, table in tables.items()}
    _check_comparable(folder, records)
    for label, table in tables.items():
        if missing := records[label]["images"] - table.num_rows:
            print(f"{label}: {missing} images could not be read and are left out")
    return tables


def open_data(options: MeasureOptions) -> ImageNetDataModule:
    """Open the images that the options name.

    Raises:
        ValueError: There is no --data.root, or nothing can be read there.
    """
    data = options.data
    if data.root is None:
        raise ValueError("--models needs the data to measure on: add --data.root DIR")
    sizes = sizes_of(options)
    return ImageNetDataModule(
        data.root,
        workers=0,
        image_size=sizes.image_size,
        resize_size=sizes.resize_size,
        allow_pipe=scheme_of(data.root) == "pipe",  # it was typed
    )


def spread(count: int, total: int) -> Ids:
    """The numbers of `count` out of `total`, evenly, because shards may be sorted by class."""
    return np.arange(count, dtype=np.int64) * total // count


def part_size(images: int) -> int:
    """Images in a part: fewer of few images, so that many processes have work."""
    return min(PART, max(64, -(-images // 32)))


def _measure_missing(
    folder: Path,
    measurement: Measurement,
    models: Sequence[ModelFile],
    options: MeasureOptions,
    check: Callable[[nn.Module], object],
    fewest: int,
    samples: Sequence[int] | None,
    own_classes: bool,
) -> None:
    devices = _devices(options.gpus, options.processes)
    data, sizes = open_data(options), sizes_of(options)
    total = data.val_manifest.num_samples
    images = min(options.limit or total, total) if samples is None else len(samples)
    if images < fewest:
        limit = (
            f"--limit {images}" if images < total else f"{redacted(data.root)} has {images} images"
        )
        raise ValueError(f"{limit}: the statistics need at least {fewest} images")
    ids = spread(images, total) if samples is None else np.array(samples, dtype=np.int64)
    parts = slices(ids, part_size(images))
    records = {file.stem: read_record(file) for file in result_files(folder)}
    unfinished, missing = [], []
    classes = None if own_classes else data.classes
    for model in models:
        record = records[model.label] = {
            "measurement": repr(measurement),
            "weights": sha256_of(model.path),
            "data": data.val_manifest.digest,
            "image_size": sizes.image_size,
            "resize_size": sizes.resize_size,
            "images": images,
            "classes": list(data.classes),
            "class_names": list(data.class_names),
        }
        if data.val_manifest.evaluation:
            record["evaluation"] = len(data.present or data.classes)
        files = PartFiles(folder, model, record)
        if files.exists(files.whole):
            continue
        unfinished.append(files)
        if own := [(files, n) for n in range(len(parts)) if not files.exists(files.part(n))]:
            missing += own
            # A wrong file should fail before hours are spent on the others.
            network = model.load(torch.device("cpu"), classes)
            if isinstance(network, BagNet):
                network.map_size(sizes.image_size, sizes.image_size)
            check(network)
    _check_comparable(folder, records)
    job = Job(measurement, data, options.data, parts, missing, classes)
    count = len(unfinished)
    name = folder.relative_to(options.out)
    run_job(f"{name}: {count} {'model' if count == 1 else 'models'}", job, devices)
    for files in unfinished:
        files.join(len(parts))


def _devices(gpus: int | None, processes: int) -> list[str]:
    """The device of each process."""
    available = torch.cuda.device_count()
    gpus = available if gpus is None else gpus
    if gpus > available:
        raise ValueError(
            f"--gpus {gpus}: this machine has {available}; give at most that, or 0 for the CPU"
        )
    if gpus and processes > 1:
        raise ValueError(
            f"--processes {processes} is for the CPU, and each GPU has one process: leave it "
            "out, or add --gpus 0"
        )
    return [f"cuda:{number}" for number in range(gpus)] or ["cpu"] * processes


def _check_comparable(folder: Path, records: Mapping[str, Mapping[str, Any]]) -> None:
    """Raise a ValueError unless all models were measured in the same way on the same images."""
    (first, expected), *others = records.items()
    for label, record in others:
        for key in expected:
            if key != "weights" and record[key] != expected[key]:
                raise ValueError(
                    f"{folder} has results that cannot be compared: {key} is {expected[key]} "
                    f"for {first} and {record[key]} for {label}; delete one file, or measure "
                    "into another --out"
                )


def _place(file: Path) -> tuple[int, list[tuple[int, str]]]:
    """Sort key: the order of MODELS, then all others, bagnet9 before bagnet33."""
    label = file.stem
    pieces = [(int(p or 0) if p.isdigit() else 0, p) for p in re.split(r"(\d+)", label)]
    return (MODELS.index(label) if label in MODELS else len(MODELS)), pieces
