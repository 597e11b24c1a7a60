"""Carries a plan out: from sample ids to a batch, through a webdataset pipeline.

`Batches` is a map-style data set of whole batches. The process that trains hands out (epoch, ids),
and a worker reads just those samples, by byte offset. So workers keep no state, their number cannot
change an order, and to go on in the middle of an epoch is to hand out the ids that are left. A tar
iterator keeps none of this: it reads whole shards.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import torch
import webdataset as wds
from torch import Tensor
from torch.utils.data import Dataset

from datamodules.common.batch import UNREADABLE, Batch
from datamodules.common.unreadable import SampleError
from datamodules.decoding.images import UnreadableImage
from datamodules.decoding.transforms import Transform, drawing_from
from datamodules.loading.device import GREY, Encoded, File, PlainJpegsUndecoded, decode, encode
from datamodules.plan import Ids, random_seed
from datamodules.remote.cache import ShardCache
from datamodules.remote.urls import name_for_people
from datamodules.shards.manifest import Manifest
from datamodules.shards.reader import MemberReader

ReadBatch = tuple[Batch, tuple[SampleError, ...]]
"""A batch, and what is wrong with those of its samples that could not be read."""

ReadEncoded = tuple[Encoded, tuple[SampleError, ...]]
"""The same of a batch whose plain JPEGs are still to be decoded."""


class Batches(Dataset[ReadBatch]):
    """Batches by (epoch, sample ids).

    Args:
        manifest: what the shards hold.
        transform: from an image file to its pixels in the batch. What it draws from torch's
            generator depends on (seed, epoch, sample id) only, whichever process runs it.
        seed: of the run.
        cache: holds copies of those shards that are not read in place.
    """

    def __init__(
        self,
        manifest: Manifest,
        transform: Transform,
        seed: int = 0,
        cache: ShardCache | None = None,
    ) -> None:
        self.manifest = manifest
        self.transform = transform
        self.seed = seed
        self.cache = cache
        self._read_members = MemberReader(cache)

    def __getitem__(self, index: tuple[int, Ids]) -> ReadBatch:
        """Read one batch, in the order of the ids.

        The place of a sample that cannot be read holds a grey image with the label `UNREADABLE`.
        """
        return self.read(index, _new_memory)

    def read(
        self, index: tuple[int, Ids], memory: Callable[[tuple[int, ...]], Tensor]
    ) -> ReadBatch:
        """Read one batch, its images into what `memory` gives for their shape: uint8, of any content."""
        samples, wrong = self._read(index, self.transform)
        # Rows of pixels, as they lie in memory.
        rows = [sample["image"].permute(1, 2, 0) for sample in samples]
        images = torch.stack(rows, out=memory((len(rows), *rows[0].shape)))
        ids = torch.from_numpy(index[1].copy())
        return (images.permute(0, 3, 1, 2), _labels(samples), ids), wrong

    def encoded(self, index: tuple[int, Ids]) -> ReadEncoded:
        """Read one batch as ever, but leave its plain JPEGs to `decode`."""
        samples, wrong = self._read(index, PlainJpegsUndecoded(self.transform))
        images, labels = [sample["image"] for sample in samples], _labels(samples)
        return encode(images, labels, torch.from_numpy(index[1].copy()), self.transform.size), wrong

    def decode(self, encoded: Encoded, device: torch.device) -> ReadBatch:
        """Decode what `encoded` has left, on a device.

        Returns:
            The batch, its images on the device and the rest where it was; and what is wrong with
            those of its files that could not be read.
        """
        images, causes = decode(encoded, device)
        labels, ids = encoded.labels, encoded.sample_ids
        if not causes:
            return (images, labels, ids), ()
        places = torch.tensor(list(causes))
        samples = zip(self.samples(ids[places].numpy()), causes.values(), strict=True)
        labels = labels.index_fill(0, places, UNREADABLE)
        return (images, labels, ids), tuple(_error(sample, cause) for sample, cause in samples)

    def _read(
        self, index: tuple[int, Ids], transform: Callable[[bytes], Tensor | File]
    ) -> tuple[list[dict[str, Any]], tuple[SampleError, ...]]:
        epoch, ids = index
        wrong: list[SampleError] = []
        handler = partial(_note, wrong)
        pipeline = wds.DataPipeline(
            partial(self.samples, ids),
            wds.map(self._check_label, handler),
            partial(self._read_members, handler=handler),
            wds.map(partial(self._decode, epoch, transform), handler),
        )
        read = {sample["id"]: sample for sample in pipeline}
        if wrong:
            size = self.transform.size
            grey = torch.full((size, size, 3), GREY, dtype=torch.uint8).permute(2, 0, 1)
            filling = {"image": grey, "label": UNREADABLE}
            read |= {error.sample_id: filling for error in wrong}
        return [read[sample_id] for sample_id in ids.tolist()], tuple(wrong)

    def samples(self, ids: Ids) -> Iterator[dict[str, Any]]:
        """The pipeline's source: webdataset samples that know where their bytes are."""
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
        if not 0 <= sample["label"] < self.manifest.num_classes:
            classes = self.manifest.num_classes
            raise _error(sample, f"its label is {sample['label']}, and there are {classes} classes")
        return sample

    def _decode(
        self, epoch: int, transform: Callable[[bytes], Tensor | File], sample: dict[str, Any]
    ) -> dict[str, Any]:
        try:
            with drawing_from(random_seed(self.seed, epoch, sample["id"])):
                return {**sample, "image": transform(sample["image"])}
        except UnreadableImage as error:
            raise _error(sample, str(error)) from error


def _error(sample: dict[str, Any], cause: str) -> SampleError:
    shard = name_for_people(sample["__url__"])
    return SampleError(sample["id"], sample["__key__"], shard, cause)


def _note(wrong: list[SampleError], error: Exception) -> bool:
    """A webdataset handler: go on without the sample, if it is the data that is at fault."""
    if not isinstance(error, SampleError):
        raise error
    wrong.append(error)
    return True


def _new_memory(shape: tuple[int, ...]) -> Tensor:
    return torch.empty(shape, dtype=torch.uint8)


def _labels(samples: list[dict[str, Any]]) -> Tensor:
    return torch.tensor([sample["label"] for sample in samples])
