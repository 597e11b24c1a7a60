"""Small data for tests of the loaders, and what comes out of them."""

import io
import itertools
from contextlib import contextmanager

import numpy as np
from PIL import Image

from datamodules.decoding.augmentation import TrainTransform
from datamodules.loading.batches import Batches
from datamodules.loading.loader import TrainLoader
from datamodules.shards.manifest import Manifest
from datamodules.shards.writer import shard_name, write_shard

COUNTS = (13, 1, 30, 8)
SAMPLES = sum(COUNTS)
BATCH = 8
STEPS = SAMPLES // BATCH


def image_file(pixels, image_format="JPEG", mode="RGB", **options):
    """The bytes of an image file of these pixels, uint8 (H, W, 3)."""
    file = io.BytesIO()
    Image.fromarray(pixels).convert(mode).save(file, image_format, **options)
    return file.getvalue()


def noise(height, width, seed=0):
    """Pixels that differ everywhere: uint8 (height, width, 3)."""
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


def write_data(folder, counts=COUNTS, classes="abcd", names=None, image=None):
    """Sample i is `image(i)`, has the label i mod the number of classes, and is called `key{i}`.

    Without `image`, it is noise.
    """
    folder.mkdir(parents=True)
    image = image or (lambda number: image_file(noise(20, 24, number)))
    parts, ids = [], iter(range(sum(counts)))
    for shard, count in enumerate(counts):
        samples = [(f"key{i}", image(i), i % len(classes)) for i in itertools.islice(ids, count)]
        parts.append(write_shard(folder / shard_name(shard), samples))
    Manifest.assemble(folder, classes, names or classes, parts).save()
    return folder


@contextmanager
def training_loaders(folder):
    """Gives a function that makes loaders of this data. Their workers stop at the end."""
    loaders = []

    def make(seed=3, batch=BATCH, **options):
        batches = Batches(Manifest.load(folder), TrainTransform(12), seed)
        loaders.append(TrainLoader(batches, batch, **{"streams": 4, **options}))
        return loaders[-1]

    yield make
    for loader in loaders:
        loader.close()


def contents(batches):
    """Sample id -> its pixels and label, for each batch."""
    return [
        {i: (image.numpy().tobytes(), label) for image, label, i in zip(*batch, strict=True)}
        for batch in ((images, labels.tolist(), ids.tolist()) for images, labels, ids in batches)
    ]
