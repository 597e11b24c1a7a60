"""Carries a plan out: from sample ids to a batch, through a webdataset pipeline.

`Batches` is a map-style data set of whole batches. The process that trains hands out (epoch, ids),
and a worker reads just those samples, by byte offset. So workers keep no state, their number cannot
change an order, and to go on in the middle of an epoch is to hand out the ids that are left. A tar
iterator keeps none of this: it reads whole shards.
"""

from __future__ import annotations

import os
from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import torch
import webdataset as wds
from torch import Tensor
from torch.utils.data import Dataset

from datamodules.manifest import Manifest
from datamodules.plan import Ids, hash64
from datamodules.transforms import decode, drawing_from

Batch = tuple[Tensor, Tensor, Tensor]
"""Images uint8 (B, 3, H, W) RGB, labels int64 (B,), sample ids int64 (B,)."""

_MAX_OPEN_SHARDS = 128  # the common limit is 1,024 files, and shared memory needs some of them


class SampleError(ValueError):
    """A sample that cannot be read or decoded: the data is at fault, not the code."""

    @classmethod
    def of(cls, sample: dict[str, Any], cause: object) -> SampleError:
        """Name the shard, the key, the cause and the remedy."""
        shard = Path(sample["__url__"])
        return cls(
            f"cannot read sample {sample['__key__']!r} of {shard}: {cause}; "
            f"`python -m datamodules.pack verify {shard.parent.parent}` lists all that is damaged"
        )


class MemberReader:
    """A pipeline stage that adds each sample's bytes, read at the manifest's offset.

    Keeps the latest shards open. Pickles without them: each worker opens its own.
    """

    def __init__(self) -> None:
        self._files: OrderedDict[str, int] = OrderedDict()

    def __call__(self, samples: Iterable[dict[str, Any]]) -> Iterator[dict[str, Any]]:
        """Yield the samples with their bytes, in order."""
        for sample in samples:
            try:
                data = self._read(sample["__url__"], sample["offset"], sample["size"])
            except OSError as error:
                raise SampleError.of(sample, error.strerror or error) from error
            if len(data) < sample["size"]:
                raise SampleError.of(sample, "the shard ends before the sample does")
            yield {**sample, "jpg": data}

    def _read(self, path: str, offset: int, size: int) -> bytes:
        """The bytes, fewer only at the end of the file."""
        file = self._open(path)
        data = os.pread(file, size, offset)
        while len(data) < size:  # network file systems may return less than they have
            more = os.pread(file, size - len(data), offset + len(data))
            if not more:
                break
            data += more
        return data

    def _open(self, path: str) -> int:
        file = self._files.pop(path, None)
        if file is None:
            if len(self._files) >= _MAX_OPEN_SHARDS:
                os.close(self._files.popitem(last=False)[1])
            file = os.open(path, os.O_RDONLY)
        self._files[path] = file
        return file

    def close(self) -> None:
        """Close all shards."""
        while self._files:
            os.close(self._files.popitem()[1])

    def __getstate__(self) -> dict[str, Any]:
        return {"_files": OrderedDict()}

    def __del__(self) -> None:
        self.close()


class Batches(Dataset[Batch]):
    """Batches by (epoch, sample ids).

    Args:
        manifest: what the shards hold.
        transform: from a decoded image, uint8 (3, H, W), to one of the batch's size. What it draws
            from torch's generator depends on (seed, epoch, sample id) only, whichever process runs
            it.
        seed: of the run.
    """

    def __init__(
        self, manifest: Manifest, transform: Callable[[Tensor], Tensor], seed: int = 0
    ) -> None:
        self.manifest = manifest
        self.transform = transform
        self.seed = seed
        self._read_members = MemberReader()

    def __getitem__(self, index: tuple[int, Ids]) -> Batch:
        """Read one batch, in the order of the ids.

        Raises:
            SampleError: a sample that cannot be read or decoded.
        """
        epoch, ids = index
        pipeline = wds.DataPipeline(
            partial(self._samples, ids),
            self._read_members,
            wds.map(_decode),
            wds.map(partial(self._transform, epoch)),
            wds.batched(len(ids), collation_fn=_collate),
        )
        return next(iter(pipeline))

    def _samples(self, ids: Ids) -> Iterator[dict[str, Any]]:
        """The pipeline's source: webdataset samples that know where their bytes are."""
        for sample_id in ids.tolist():
            sample = self.manifest.sample(sample_id)
            yield {
                "__key__": sample.key,
                "__url__": str(self.manifest.root / sample.shard),
                "offset": sample.offset,
                "size": sample.size,
                "id": sample.id,
                "label": sample.label,
            }

    def _transform(self, epoch: int, sample: dict[str, Any]) -> dict[str, Any]:
        with drawing_from(hash64(self.seed, epoch, sample["id"])):
            return {**sample, "image": self.transform(sample["image"])}


def _decode(sample: dict[str, Any]) -> dict[str, Any]:
    data = sample.pop("jpg")  # so that a batch holds pixels only, not the files too
    try:
        return {**sample, "image": decode(data)}
    except ValueError as error:
        raise SampleError.of(sample, error) from error


def _collate(samples: list[dict[str, Any]]) -> Batch:
    images = [sample["image"] for sample in samples]
    return (
        torch.stack(images, out=torch.empty(len(images), *images[0].shape, dtype=torch.uint8)),
        torch.tensor([sample["label"] for sample in samples]),
        torch.tensor([sample["id"] for sample in samples]),
    )
