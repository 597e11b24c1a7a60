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

from datamodules.cache import ShardCache
from datamodules.locations import name_for_people
from datamodules.manifest import Manifest
from datamodules.members import MemberReader
from datamodules.plan import Ids, hash64
from datamodules.transforms import decode, drawing_from
from datamodules.unreadable import UNREADABLE, SampleError

Batch = tuple[Tensor, Tensor, Tensor]
"""Images uint8 (B, 3, H, W) RGB, labels int64 (B,), sample ids int64 (B,)."""

ReadBatch = tuple[Batch, tuple[SampleError, ...]]
"""A batch, and what is wrong with those of its samples that could not be read."""


class Batches(Dataset[ReadBatch]):
    """Batches by (epoch, sample ids).

    Args:
        manifest: what the shards hold.
        transform: from a decoded image, uint8 (3, H, W), to one of the batch's size. What it draws
            from torch's generator depends on (seed, epoch, sample id) only, whichever process runs
            it.
        seed: of the run.
        cache: holds copies of those shards that are not read in place.
    """

    def __init__(
        self,
        manifest: Manifest,
        transform: Callable[[Tensor], Tensor],
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
        epoch, ids = index
        wrong: list[SampleError] = []
        handler = partial(_note, wrong)
        pipeline = wds.DataPipeline(
            partial(self._samples, ids),
            wds.map(self._check_label, handler),
            partial(self._read_members, handler=handler),
            wds.map(_decode, handler),
            wds.map(partial(self._transform, epoch)),
        )
        read = {sample["id"]: sample for sample in pipeline}
        if wrong:
            with drawing_from(self.seed):
                grey = self.transform(torch.full((3, 64, 64), 128, dtype=torch.uint8))
            filling = {"image": grey, "label": UNREADABLE}
            read |= {error.sample_id: filling for error in wrong}
        return _collate(ids, read), tuple(wrong)

    def _samples(self, ids: Ids) -> Iterator[dict[str, Any]]:
        """The pipeline's source: webdataset samples that know where their bytes are."""
        for sample_id in ids.tolist():
            sample = self.manifest.sample(sample_id)
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

    def _transform(self, epoch: int, sample: dict[str, Any]) -> dict[str, Any]:
        with drawing_from(hash64(self.seed, epoch, sample["id"])):
            return {**sample, "image": self.transform(sample["image"])}


def _decode(sample: dict[str, Any]) -> dict[str, Any]:
    try:
        return {**sample, "image": decode(sample["image"])}
    except ValueError as error:
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


def _collate(ids: Ids, read: dict[int, dict[str, Any]]) -> Batch:
    samples = [read[sample_id] for sample_id in ids.tolist()]
    images = [sample["image"] for sample in samples]
    return (
        torch.stack(images, out=torch.empty(len(images), *images[0].shape, dtype=torch.uint8)),
        torch.tensor([sample["label"] for sample in samples]),
        torch.from_numpy(ids.copy()),
    )
