"""Reads one batch: from sample ids to pixels, through a webdataset pipeline.

`Batches` is a map-style dataset of whole batches. The training process hands out (epoch, ids), and
a worker reads exactly those samples by byte offset. So workers have no state, their number cannot
change the order, and resuming in the middle of an epoch means handing out the remaining ids. A tar
iterator offers none of this, because it reads whole shards.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from functools import partial
from typing import Any

import torch
import webdataset as wds
from torch import Tensor
from torch.utils.data import Dataset

from datamodules.common.batch import UNREADABLE, Batch
from datamodules.common.errors import SampleError
from datamodules.decoding.images import UnreadableImage
from datamodules.decoding.transforms import Transform, drawing_from
from datamodules.plan import Ids, random_seed
from datamodules.remote.cache import ShardCache
from datamodules.remote.urls import redacted
from datamodules.shards.manifest import Manifest
from datamodules.shards.reader import SampleReader

Index = tuple[int, Ids]
"""What identifies a batch: the epoch, and the sample ids in order."""

ReadBatch = tuple[Batch, tuple[SampleError, ...]]
"""A batch, and what is wrong with each of its samples that could not be read."""

_GREY = 128
"""Value of all pixels in the place of a sample that cannot be read."""


class Batches(Dataset[ReadBatch]):
    """Batches by (epoch, sample ids).

    Args:
        manifest: What the shards hold.
        transform: Turns an image file into pixels; or one such transform for each epoch from which
            on it is used. What it draws from torch's generator depends on (seed, epoch, sample id)
            only, in whichever process it runs.
        seed: Seed of the run, at least 0.
        cache: Holds copies of the shards that are not read in place.
    """

    def __init__(
        self,
        manifest: Manifest,
        transform: Transform | Mapping[int, Transform],
        seed: int = 0,
        cache: ShardCache | None = None,
    ) -> None:
        self.manifest = manifest
        self.transforms = transform if isinstance(transform, Mapping) else {0: transform}
        self.seed = seed
        self.cache = cache
        self._read_bytes = SampleReader(cache)

    def __getitem__(self, index: Index) -> ReadBatch:
        """Read one batch, in the order of the ids.

        The place of a sample that cannot be read holds a grey image with the label `UNREADABLE`.
        """
        return self.read(index, partial(torch.empty, dtype=torch.uint8))

    def read(self, index: Index, allocate: Callable[[tuple[int, ...]], Tensor]) -> ReadBatch:
        """Read one batch into memory of the caller's choice.

        Args:
            index: Epoch and sample ids.
            allocate: Gives the memory for the images: uint8 of the requested shape.
        """
        epoch, ids = index
        transform = self.transforms[max(start for start in self.transforms if start <= epoch)]
        errors: list[SampleError] = []
        handler = partial(_collect, errors)
        pipeline = wds.DataPipeline(
            partial(self.samples, ids),
            wds.map(self._check_label, handler),
            partial(self._read_bytes, handler=handler),
            wds.map(partial(self._decode, transform, epoch), handler),
        )
        read = {sample["id"]: sample for sample in pipeline}
        if errors:
            size = transform.size
            grey = torch.full((size, size, 3), _GREY, dtype=torch.uint8).permute(2, 0, 1)
            filling = {"image": grey, "label": UNREADABLE}
            read |= {error.sample_id: filling for error in errors}
        samples = [read[sample_id] for sample_id in ids.tolist()]
        rows = [sample["image"].permute(1, 2, 0) for sample in samples]  # as they are in memory
        images = torch.stack(rows, out=allocate((len(rows), *rows[0].shape))).permute(0, 3, 1, 2)
        labels = torch.tensor([sample["label"] for sample in samples])
        return (images, labels, torch.from_numpy(ids.copy())), tuple(errors)

    def samples(self, ids: Ids) -> Iterator[dict[str, Any]]:
        """The source of the pipeline: webdataset samples that know where their bytes are."""
        for sample in self.manifest.lookup(ids):
            yield {
                "__key__": sample.key,
                "__url__": self.manifest.location(sample.shard),
                "shard": sample.shard,
                "offset": sample.offset,
                "size": sample.size,
                "crc32": sample.crc32,
                "id": sample.id,
                "label": sample.label,
            }

    def _check_label(self, sample: dict[str, Any]) -> dict[str, Any]:
        label, classes = sample["label"], self.manifest.num_classes
        if not 0 <= label < classes:
            raise _error(sample, f"its label is {label}, but there are {classes} classes")
        return sample

    def _decode(self, transform: Transform, epoch: int, sample: dict[str, Any]) -> dict[str, Any]:
        try:
            with drawing_from(random_seed(self.seed, epoch, sample["id"])):
                return {**sample, "image": transform(sample["image"])}
        except UnreadableImage as error:
            raise _error(sample, str(error)) from error


def _error(sample: dict[str, Any], cause: str) -> SampleError:
    return SampleError(sample["id"], sample["__key__"], redacted(sample["__url__"]), cause)


def _collect(errors: list[SampleError], error: Exception) -> bool:
    """A webdataset handler: continue without the sample, but only if the data is at fault."""
    if not isinstance(error, SampleError):
        raise error
    errors.append(error)
    return True
