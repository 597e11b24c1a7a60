"""The data pipelines that `bench data` compares; run as a script, it serves one of them.

Each yields batches whose first part is the images: decoded, randomly cropped, and flipped.
"""

from __future__ import annotations

import json
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import simplejpeg
import torch
from torchvision.datasets import ImageFolder
from torchvision.transforms import v2
from webdataset import WebDataset

from datamodules.decoding.augmentation import TrainTransform
from datamodules.decoding.images import image_size
from datamodules.imagenet import ImageNetDataModule
from datamodules.loading.loader import TrainLoader


class Settings(NamedTuple):
    """What to measure: see `bagnet.bench.options.DataOptions`. `root` may hold image files."""

    pipeline: str
    root: str
    workers: int
    batch_size: int
    image_size: int
    seconds: float


def serve(settings: Settings) -> None:
    """Measure once for each line of stdin, and print images per second."""
    torch.set_num_threads(1)
    batches = PIPELINES[settings.pipeline](settings)
    for _ in sys.stdin:
        _images_per_second(batches, min(settings.seconds, 2.0))  # consumes what was ready
        print(_images_per_second(batches, settings.seconds), flush=True)


def _images_per_second(batches: Iterator[Any], seconds: float) -> float:
    images, begin = 0, time.perf_counter()
    while time.perf_counter() - begin < seconds:
        images += len(next(batches)[0])
    return images / (time.perf_counter() - begin)


def _endless(loader: Any) -> Iterator[Any]:
    while True:
        yield from loader


def _ours(settings: Settings) -> Iterator[Any]:
    data = ImageNetDataModule(
        settings.root,
        workers=settings.workers,
        batch_size=settings.batch_size,
        image_size=settings.image_size,
    )
    return _endless(data.train_dataloader())


class _WholeImages(TrainTransform):
    """Decodes whole JPEGs and crops them, as on a machine without a C compiler."""

    def __call__(self, data: bytes) -> torch.Tensor:
        view = self.view(*image_size(data))
        left, top, width, height = view.box
        whole = simplejpeg.decode_jpeg(data, fastdct=False, fastupsample=False, strict=True)
        return self.resize(whole[top : top + height, left : left + width].copy(), view)


def _whole(settings: Settings) -> Iterator[Any]:
    batches = ImageNetDataModule(settings.root).batches("train")
    batches.transforms = {0: _WholeImages(settings.image_size)}
    return _endless(TrainLoader(batches, settings.batch_size, workers=settings.workers))


def _reference_transform(image_size: int, floats: bool = True) -> Any:
    """The transform of torchvision's reference training, for PIL."""
    steps = [v2.RandomResizedCrop(image_size), v2.RandomHorizontalFlip(), v2.PILToTensor()]
    if floats:
        steps += [v2.ToDtype(torch.float32, scale=True)]
        steps += [v2.Normalize((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))]
    return v2.Compose(steps)


def _torch_loader(dataset: Any, settings: Settings, **options: Any) -> Any:
    return torch.utils.data.DataLoader(
        dataset,
        batch_size=settings.batch_size,
        num_workers=settings.workers,
        drop_last=True,
        persistent_workers=settings.workers > 0,
        **options,
    )


def _imagefolder(settings: Settings, floats: bool = True) -> Iterator[Any]:
    folder = ImageFolder(settings.root, _reference_transform(settings.image_size, floats))
    return _endless(_torch_loader(folder, settings, shuffle=True))


def _imagefolder_uint8(settings: Settings) -> Iterator[Any]:
    return _imagefolder(settings, floats=False)


def _shards(settings: Settings) -> list[str]:
    return sorted(str(path) for path in Path(settings.root, "train").glob("*.tar"))


def _all_shards(source: Any) -> Any:
    return source  # to each worker, because a benchmark may have fewer shards than workers


def _webdataset(settings: Settings) -> Iterator[Any]:
    shards = _shards(settings)
    pipeline = (
        WebDataset(shards, shardshuffle=len(shards), workersplitter=_all_shards)
        .shuffle(1000)
        .decode("pil")
        .to_tuple("jpg", "cls")
        .map_tuple(_reference_transform(settings.image_size), None)
    )
    return _endless(_torch_loader(pipeline, settings))


def _dali(settings: Settings) -> Iterator[Any]:
    """Follows DALI's ImageNet example: the decoder draws the crop and decodes only that."""
    from nvidia.dali import fn, pipeline_def

    def graph() -> Any:
        files, _ = fn.readers.webdataset(
            paths=_shards(settings), ext=["jpg", "cls"], random_shuffle=True
        )
        images = fn.decoders.image_random_crop(
            files, random_area=[0.08, 1.0], random_aspect_ratio=[3 / 4, 4 / 3]
        )
        images = fn.resize(images, size=[settings.image_size] * 2, antialias=True)
        return fn.flip(images, horizontal=fn.random.coin_flip())

    threads = max(settings.workers, 1)
    pipeline = pipeline_def(batch_size=settings.batch_size, num_threads=threads, device_id=None)
    running = pipeline(graph)()
    running.build()
    while True:
        yield running.run()


def _ffcv(settings: Settings) -> Iterator[Any]:
    """Follows FFCV's ImageNet example, with the files' own bytes instead of new JPEGs."""
    from ffcv.fields import RGBImageField
    from ffcv.fields.decoders import IntDecoder, RandomResizedCropRGBImageDecoder
    from ffcv.loader import Loader, OrderOption
    from ffcv.transforms import RandomHorizontalFlip, ToTensor

    crop = RandomResizedCropRGBImageDecoder((settings.image_size,) * 2)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "train.beton")
        _write_beton(settings.root, path)
        loader = Loader(
            str(path),
            batch_size=settings.batch_size,
            num_workers=max(settings.workers, 1),
            order=OrderOption.RANDOM,
            os_cache=True,
            custom_fields={"image": RGBImageField},
            drop_last=True,
            pipelines={
                "image": [crop, RandomHorizontalFlip(), ToTensor()],
                "label": [IntDecoder(), ToTensor()],
            },
        )
        yield from _endless(loader)


def _write_beton(root: str, path: Path) -> None:
    """Write a folder of images into a file for FFCV."""
    from ffcv.fields import IntField, RGBImageField
    from ffcv.fields.rgb_image import IMAGE_MODES
    from ffcv.writer import DatasetWriter

    class JpegField(RGBImageField):  # type: ignore[misc, unused-ignore]
        def encode(self, destination: Any, image: bytes, malloc: Any) -> None:
            width, height = image_size(image)
            destination["mode"] = IMAGE_MODES["jpg"]
            destination["height"], destination["width"] = height, width
            destination["data_ptr"], storage = malloc(len(image))
            storage[:] = np.frombuffer(image, np.uint8)

    fields = {"image": JpegField(write_mode="jpg"), "label": IntField()}
    DatasetWriter(str(path), fields, num_workers=1).from_indexed_dataset(
        ImageFolder(root, loader=_bytes)
    )


def _bytes(path: str) -> bytes:
    return Path(path).read_bytes()


PIPELINES: dict[str, Callable[[Settings], Iterator[Any]]] = {
    "imagefolder": _imagefolder,
    "imagefolder_uint8": _imagefolder_uint8,
    "webdataset": _webdataset,
    "dali": _dali,
    "ffcv": _ffcv,
    "whole": _whole,
    "ours": _ours,
}


if __name__ == "__main__":
    serve(Settings(**json.loads(sys.argv[1])))
