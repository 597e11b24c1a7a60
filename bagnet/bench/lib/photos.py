"""Makes packed JPEGs that are as expensive to read and decode as ImageNet's, in seconds."""

from __future__ import annotations

import io
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from datamodules.demo.pictures import background
from datamodules.processes.children import available_cpus
from datamodules.processes.pool import Pool, advance
from datamodules.shards.entries import Shard
from datamodules.shards.manifest import Manifest
from datamodules.shards.writer import shard_name, write_shard

HEIGHT, WIDTH = 375, 500  # px
QUALITY, NOISE = 95, 10  # so that an image has about 110 kB, the mean of ImageNet's
SHARD = 800  # images
DISTINCT = 40  # images of a shard that are drawn; the others are copies of them
CLASSES = [f"class{label:03}" for label in range(1000)]


@dataclass(frozen=True)
class _Task:
    path: Path
    images: int


def pack_photos(root: Path, counts: dict[str, int]) -> None:
    """Write the splits that are not there yet: images of 500x375 with random ones of 1,000 classes.

    Args:
        root: Folder of the packed data.
        counts: Images of each split, such as `{"train": 38400, "val": 512}`.
    """
    missing = {split: n for split, n in counts.items() if not _is_there(root / split, n)}
    tasks = [
        _Task(root / split / shard_name(start // SHARD), min(SHARD, count - start))
        for split, count in missing.items()
        for start in range(0, count, SHARD)
    ]
    if not tasks:
        return
    with Pool(min(available_cpus(), len(tasks))) as pool:
        made = pool.run(_write, tasks, lambda done: None)
    for split in missing:
        folder = root / split
        parts = [part for task, part in zip(tasks, made, strict=True) if task.path.parent == folder]
        Manifest.assemble(folder, CLASSES, CLASSES, parts).save()


def _is_there(folder: Path, count: int) -> bool:
    try:
        return len(Manifest.load(folder).samples) == count
    except (ValueError, OSError):
        return False


def _write(task: _Task) -> tuple[Shard, np.ndarray]:
    name = f"{task.path.parent.name}-{task.path.stem}"  # of the split and the shard
    rng = np.random.default_rng(list(name.encode()))
    photos = []
    for _ in range(min(DISTINCT, task.images)):
        photos.append(_photo(rng))
        advance()
    labels = rng.integers(len(CLASSES), size=len(photos))
    numbers = [i % len(photos) for i in range(task.images)]
    samples = [(f"{name}-{i}", photos[n], int(labels[n])) for i, n in enumerate(numbers)]
    return write_shard(task.path, samples)


def _photo(rng: np.random.Generator) -> bytes:
    """Coloured 1/f noise, whose spectrum is that of photographs, with a camera's noise."""
    image = background(rng, WIDTH)[:HEIGHT]
    image += NOISE * rng.standard_normal(image.shape, dtype=np.float32)
    file = io.BytesIO()
    Image.fromarray(image.clip(0, 255).astype(np.uint8)).save(file, "JPEG", quality=QUALITY)
    return file.getvalue()
