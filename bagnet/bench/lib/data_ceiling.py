"""Where the time of an image goes in this project's loader, and how many cores a GPU needs."""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from datamodules.common.errors import SampleError
from datamodules.decoding.images import image_size, pixels
from datamodules.decoding.region import why_not
from datamodules.decoding.transforms import TrainTransform, View, drawing_from
from datamodules.imagenet import ImageNetDataModule
from datamodules.loading.shared_memory import SharedBuffers
from datamodules.shards.reader import SampleReader


def ceiling(options: argparse.Namespace) -> None:
    """Measure each stage by itself, in turn, on one core, and print a table.

    Args:
        options: root, batch_size, image_size, seconds, rate (images/s of a training) and out.
    """
    torch.set_num_threads(1)
    stages = {name: statistics.median(times) for name, times in _measure(options).items()}
    on_cores = {name: seconds for name, seconds in stages.items() if name != "copy to the GPU"}
    total = sum(on_cores.values())
    table = Table("stage", "us an image", "share")
    for name, seconds in stages.items():
        share = f"{seconds / total:.0%}" if name in on_cores else ""
        table.add_row(name, f"{seconds * 1e6:.1f}", share)
    table.add_row("together", f"{total * 1e6:.1f}", "")
    console = Console()
    console.print(table)
    if (reason := why_not()) is not None:
        console.print(f"Images are decoded whole: {reason}.")
    console.print(
        f"One core makes {1 / total:,.0f} images/s ready; a GPU that takes {options.rate:,.0f} "
        f"images/s needs {options.rate * total:.1f} cores."
    )
    if options.out:
        figures = {"seconds_per_image": stages, "cores": options.rate * total}
        options.out.write_text(json.dumps(figures, indent=1) + "\n")


def _measure(options: argparse.Namespace) -> dict[str, list[float]]:
    """Seconds an image of each stage, round by round."""
    data = ImageNetDataModule(str(options.root), image_size=options.image_size, workers=0)
    batches, transform = data.batches("train"), TrainTransform(options.image_size)
    reader = SampleReader()
    count = min(options.batch_size, batches.manifest.num_samples)
    order = np.random.default_rng(0).permutation(batches.manifest.num_samples)
    times: dict[str, list[float]] = defaultdict(list)

    @contextmanager
    def timed(name: str) -> Iterator[None]:
        begin = time.perf_counter()
        yield
        times[name].append((time.perf_counter() - begin) / count)

    until = time.perf_counter() + options.seconds
    while time.perf_counter() < until:
        ids, order = order[:count], np.roll(order, -count)
        with timed("read"):
            files = [sample["image"] for sample in reader(batches.samples(ids), _refuse)]
        with timed("header"):
            sizes = [image_size(file) for file in files]
        with timed("draw"):
            views = [_draw(transform, *size) for size in sizes]
        with timed("decode"):
            boxes = [pixels(file, view.box) for file, view in zip(files, views, strict=True)]
        with timed("resize and flip"):
            seen = [transform.resize(box, view) for box, view in zip(boxes, views, strict=True)]
        with timed("batch and hand-over"):
            together = _batch(seen)
        by_stage = sum(stage[-1] for name, stage in times.items() if name != "pipeline")
        with timed("pipeline"):
            batches[0, ids]
        times["pipeline"][-1] = max(times["pipeline"][-1] - by_stage, 0.0)
        if torch.cuda.is_available():
            pinned = together.pin_memory()
            with timed("copy to the GPU"):
                pinned.to("cuda", non_blocking=True)
                torch.cuda.synchronize()
    # That was in this process. Workers write batches into memory that they share with it.
    times["batch and hand-over"] = _with_hand_over(seen, options.seconds / 4)
    return times


def _draw(transform: TrainTransform, width: int, height: int) -> View:
    with drawing_from(width * height):
        return transform.view(width, height)


def _refuse(error: SampleError) -> bool:
    raise error


def _batch(images: list[Tensor], out: Tensor | None = None) -> Tensor:
    return torch.stack([image.permute(1, 2, 0) for image in images], out=out)


class _Batches(Dataset[Tensor]):
    """Batches of ready images: what is left is to put them together and hand them over."""

    def __init__(self, images: list[Tensor]) -> None:
        self._images = images
        self._buffers: SharedBuffers | None = None

    def __len__(self) -> int:
        return 1 << 30

    def __getitem__(self, _: int) -> Tensor:
        self._buffers = self._buffers or SharedBuffers()
        channels, height, width = self._images[0].shape
        memory = self._buffers.take((len(self._images), height, width, channels))
        return self._buffers.hand_over(_batch(self._images, memory))


def _with_hand_over(images: list[Tensor], seconds: float) -> list[float]:
    """Seconds an image of a worker process that puts batches into shared memory."""
    loader = iter(DataLoader(_Batches(images), batch_size=None, num_workers=1))
    next(loader)
    times: list[float] = []
    until = time.perf_counter() + seconds
    while time.perf_counter() < until or not times:
        begin = time.perf_counter()
        next(loader)
        times.append((time.perf_counter() - begin) / len(images))
    return times
