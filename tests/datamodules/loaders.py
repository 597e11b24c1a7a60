"""Small data for tests of the loaders, and what comes out of them."""

import io
import itertools
from contextlib import contextmanager

import numpy as np
from PIL import Image

from datamodules.decoding.transforms import TrainTransform
from datamodules.loading.batches import Batches
from datamodules.loading.loader import TrainLoader
from datamodules.shards.manifest import Manifest
from datamodules.shards.writer import shard_name, write_shard

COUNTS = (13, 1, 30, 8)
SAMPLES = sum(COUNTS)
BATCH = 8
STEPS = SAMPLES // BATCH


def write_data(folder):
    """52 noisy images of 4 classes in 4 uneven shards."""
    folder.mkdir()
    parts, ids = [], iter(range(SAMPLES))
    for shard, count in enumerate(COUNTS):
        samples = [(f"key{i}", jpeg(i), i % 4) for i in itertools.islice(ids, count)]
        parts.append(write_shard(folder / shard_name(shard), samples))
    Manifest.assemble(folder, "abcd", "abcd", parts).save()
    return folder


def jpeg(number):
    pixels = np.random.default_rng(number).integers(0, 256, (20, 24, 3), dtype=np.uint8)
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "JPEG")
    return file.getvalue()


@contextmanager
def training_loaders(folder):
    """What makes loaders of this data; their workers stop at the end."""
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
