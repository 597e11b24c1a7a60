"""The data pipelines that `bench data` compares: a process serves one of them.

Each makes batches whose first part is the images: decoded, randomly cropped, flipped.
"""

from __future__ import annotations

import json
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torchvision
import webdataset

from datamodules.decoding import images
from datamodules.decoding.images import image_size
from datamodules.decoding.region import Region
from datamodules.decoding.transforms import TrainTransform
from datamodules.imagenet import ImageNetDataModule
from datamodules.loading.loader import TrainLoader


def serve(settings: dict[str, Any]) -> None:
    """Measure once for each line that comes in, and print images a second."""
    torch.set_num_threads(1)
    batches = globals()[f"_{settings['variant']}"](settings)
    for _ in sys.stdin:
        _images_per_second(batches, min(settings["seconds"], 2.0))  # also what was ready
        print(_images_per_second(batches, settings["seconds"]), flush=True)


def _images_per_second(batches: Iterator[Any], seconds: float) -> float:
    images, begin = 0, time.perf_counter()
    while time.perf_counter() - begin < seconds:
        images += len(next(batches)[0])
    return images / (time.perf_counter() - begin)


def _for_ever(loader: Any) -> Iterator[Any]:
    while True:
        yield from loader


def _ours(settings: dict[str, Any]) -> Iterator[Any]:
    names = ("root", "workers", "batch_size", "image_size")
    data = ImageNetDataModule(**{name: settings[name] for name in names})
    return _for_ever(data.train_dataloader())


class _WholeImages(TrainTransform):
    """Decodes images whole, as on a machine without a C compiler."""

    def __call__(self, data: bytes) -> torch.Tensor:
        vars(images)["decode_region"] = _no_region  # here, to do it in each worker
        return super().__call__(data)


def _no_region(data: bytes, region: Region) -> None:
    return None


def _whole(settings: dict[str, Any]) -> Iterator[Any]:
    data = ImageNetDataModule(settings["root"], image_size=settings["image_size"])
    batches = data.batches("train")
    batches.transform = _WholeImages(settings["image_size"])
    return _for_ever(TrainLoader(batches, settings["batch_size"], workers=settings["workers"]))


def _usual_transform(image_size: int, floats: bool = True) -> Any:
    """That of torchvision's reference training, for PIL."""
    from torchvision.transforms import v2

    steps = [v2.RandomResizedCrop(image_size), v2.RandomHorizontalFlip(), v2.PILToTensor()]
    if floats:
        steps += [v2.ToDtype(torch.float32, scale=True)]
        steps += [v2.Normalize((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))]
    return v2.Compose(steps)


def _webdataset(settings: dict[str, Any]) -> Iterator[Any]:
    shards = sorted(str(path) for path in Path(settings["root"], "train").glob("*.tar"))
    pipeline = (
        webdataset.WebDataset(shards, shardshuffle=len(shards), workersplitter=_all_of_them)
        .shuffle(1000)
        .decode("pil")
        .to_tuple("jpg", "cls")
        .map_tuple(_usual_transform(settings["image_size"]), None)
    )
    return _for_ever(_usual_loader(pipeline, settings))


def _dali(settings: dict[str, Any]) -> Iterator[Any]:
    """As its ImageNet example: the decoder draws the crop and decodes that."""
    from nvidia.dali import fn, pipeline_def

    shards = sorted(str(path) for path in Path(settings["root"], "train").glob("*.tar"))

    @pipeline_def(
        batch_size=settings["batch_size"], num_threads=max(settings["workers"], 1), device_id=None
    )
    def pipeline() -> Any:
        files, _ = fn.readers.webdataset(paths=shards, ext=["jpg", "cls"], random_shuffle=True)
        images = fn.decoders.image_random_crop(
            files, random_area=[0.08, 1.0], random_aspect_ratio=[3 / 4, 4 / 3]
        )
        images = fn.resize(images, size=[settings["image_size"]] * 2, antialias=True)
        return fn.flip(images, horizontal=fn.random.coin_flip())

    running = pipeline()
    running.build()
    while True:
        yield running.run()


def _ffcv(settings: dict[str, Any]) -> Iterator[Any]:
    """As its ImageNet example, but with the files' own bytes, which its writer would compress again."""
    from ffcv.fields import RGBImageField
    from ffcv.fields.decoders import IntDecoder, RandomResizedCropRGBImageDecoder
    from ffcv.loader import Loader, OrderOption
    from ffcv.transforms import RandomHorizontalFlip, ToTensor

    crop = RandomResizedCropRGBImageDecoder((settings["image_size"],) * 2)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "train.beton")
        _write_beton(Path(settings["root"]), path)
        loader = Loader(
            str(path),
            batch_size=settings["batch_size"],
            num_workers=max(settings["workers"], 1),
            order=OrderOption.RANDOM,
            os_cache=True,
            custom_fields={"image": RGBImageField},
            drop_last=True,
            pipelines={
                "image": [crop, RandomHorizontalFlip(), ToTensor()],
                "label": [IntDecoder(), ToTensor()],
            },
        )
        yield from _for_ever(loader)


def _write_beton(root: Path, path: Path) -> None:
    """Write a folder of images into a file for FFCV."""
    from ffcv.fields import IntField, RGBImageField
    from ffcv.fields.rgb_image import IMAGE_MODES
    from ffcv.writer import DatasetWriter

    class JpegField(RGBImageField):
        def encode(self, destination: Any, image: bytes, malloc: Any) -> None:
            width, height = image_size(image)
            destination["mode"] = IMAGE_MODES["jpg"]
            destination["height"], destination["width"] = height, width
            destination["data_ptr"], storage = malloc(len(image))
            storage[:] = np.frombuffer(image, np.uint8)

    fields = {"image": JpegField(write_mode="jpg"), "label": IntField()}
    DatasetWriter(str(path), fields, num_workers=1).from_indexed_dataset(
        torchvision.datasets.ImageFolder(str(root), loader=_bytes)
    )


def _bytes(path: str) -> bytes:
    return Path(path).read_bytes()


def _all_of_them(source: Any) -> Any:
    return source  # each worker reads all: a benchmark may have fewer shards than workers


def _imagefolder(settings: dict[str, Any], floats: bool = True) -> Iterator[Any]:
    transform = _usual_transform(settings["image_size"], floats)
    folder = torchvision.datasets.ImageFolder(settings["root"], transform)
    return _for_ever(_usual_loader(folder, settings, shuffle=True))


def _imagefolder_uint8(settings: dict[str, Any]) -> Iterator[Any]:
    return _imagefolder(settings, floats=False)


def _usual_loader(dataset: Any, settings: dict[str, Any], **options: Any) -> Any:
    return torch.utils.data.DataLoader(
        dataset,
        batch_size=settings["batch_size"],
        num_workers=settings["workers"],
        drop_last=True,
        persistent_workers=settings["workers"] > 0,
        **options,
    )


if __name__ == "__main__":
    serve(json.loads(sys.argv[1]))
