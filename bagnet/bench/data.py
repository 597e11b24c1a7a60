"""How many images a second the data pipeline makes ready, against the usual ones.

All variants take turns, in processes of their own, so that whatever else the machine does hits all
of them alike. Images are decoded, randomly cropped, flipped and batched.

* imagefolder: the images as files through `torchvision.datasets.ImageFolder`, PIL and the transforms of
  torchvision's reference training, which normalises in the workers.
* imagefolder_uint8: without that; the batches are uint8.
* webdataset: this project's shards through `wds.WebDataset`, and the same transforms.
* dali: this project's shards through NVIDIA DALI on the CPU, as many threads as the others have workers.
* whole: this project's loader on a machine without C compiler, where images are decoded whole.
* ours: this project's loader; uint8 batches, which the device normalises.
* other: the loader of another checkout, to see what a change costs.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
import torchvision
import webdataset
from rich.console import Console
from rich.progress import track

from bagnet.bench.data_ceiling import ceiling
from bagnet.bench.report import report

REPOSITORY = Path(__file__).parents[2]
VARIANTS = ("imagefolder", "imagefolder_uint8", "webdataset", "dali", "whole", "ours")


def main(arguments: Sequence[str]) -> int:
    """Run the benchmark and print its table; returns the exit code."""
    parser = argparse.ArgumentParser(prog="python -m bagnet.bench data", allow_abbrev=False)
    add = parser.add_argument
    add("root", metavar="DIR", type=Path, help="packed data; its train split is read")
    add("--workers", type=int, default=0, help="processes; 0 measures one core (default)")
    add("--batch-size", type=int, default=64)
    add("--image-size", type=int, default=224)
    add("--seconds", type=float, default=5.0, help="of each measurement, after a warm-up (5)")
    add("--rounds", type=int, default=5, help="(5)")
    add("--variants", nargs="+", choices=VARIANTS, help="by default all but dali")
    add(
        "--other", nargs=2, metavar=("CHECKOUT", "DIR"), help="another checkout, and data it packed"
    )
    add("--ceiling", action="store_true", help="show where the time of an image goes instead")
    add("--rate", type=float, default=2150.0, help="of the ceiling: images/s of a GPU (2150)")
    add("--out", type=Path, help="write the figures there as JSON")
    options = parser.parse_args(arguments)
    if options.ceiling:
        ceiling(options)
        return 0
    return _measure_all(options)


def _measure_all(options: argparse.Namespace) -> int:
    with contextlib.ExitStack() as stack:
        names = options.variants or [name for name in VARIANTS if name != "dali"]
        commands = {name: (REPOSITORY, name, options.root) for name in names}
        if options.other:
            commands["other"] = (Path(options.other[0]).resolve(), "ours", Path(options.other[1]))
        folders = [name for name in commands if name.startswith("imagefolder")]
        if folders:
            files = Path(stack.enter_context(tempfile.TemporaryDirectory()))
            _unpack(options.root, files)
            commands |= {name: (REPOSITORY, name, files) for name in folders}
        variants = {
            name: stack.enter_context(_Variant(*command, options))
            for name, command in commands.items()
        }
        rates: dict[str, list[float]] = {name: [] for name in commands}
        rounds = [name for _ in range(options.rounds) for name in commands]
        for name in track(rounds, console=Console(stderr=True), transient=True):
            rates[name].append(variants[name].measure())
    report(rates, options, "images")
    return 0


class _Variant:
    """A process that measures when it is told to. Between that its workers wait, with a few batches ready."""

    def __init__(self, checkout: Path, name: str, root: Path, options: argparse.Namespace) -> None:
        settings = {
            "variant": name,
            "root": str(root.resolve()),
            "workers": options.workers,
            "batch_size": options.batch_size,
            "image_size": options.image_size,
            "seconds": options.seconds,
        }
        environment = {**os.environ, "PYTHONPATH": str(checkout), "OMP_NUM_THREADS": "1"}
        if name == "whole":
            environment["CC"] = "no compiler"
        self._what = f"{name} of {checkout}"
        self._process = subprocess.Popen(
            [sys.executable, __file__, json.dumps(settings)],
            env=environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def __enter__(self) -> _Variant:
        return self

    def __exit__(self, *_: object) -> None:
        self._process.kill()  # its workers follow it
        self._process.communicate()

    def measure(self) -> float:
        """Images a second, or a ValueError that says why there are none."""
        told, answer = self._process.stdin, self._process.stdout
        assert told is not None
        assert answer is not None
        with contextlib.suppress(BrokenPipeError):
            print("go", file=told, flush=True)
        rate = answer.readline()
        if not rate:
            said = self._process.communicate()[1]
            reason = said.strip().splitlines()[-1:] or ["no message"]
            raise ValueError(f"{self._what} failed: {reason[0]}")
        return float(rate)


def _unpack(root: Path, files: Path) -> None:
    """Write the images of the train split as files, a folder a class."""
    from datamodules.manifest import Manifest

    manifest = Manifest.load(root / "train")
    for sample in map(manifest.sample, range(manifest.num_samples)):
        folder = files / manifest.classes[sample.label]
        folder.mkdir(exist_ok=True)
        with open(manifest.location(sample.shard), "rb") as shard:
            shard.seek(sample.offset)
            (folder / f"{sample.key}.jpg").write_bytes(shard.read(sample.size))


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
    from datamodules.imagenet import ImageNetDataModule

    names = ("root", "workers", "batch_size", "image_size")
    data = ImageNetDataModule(**{name: settings[name] for name in names})
    return _for_ever(data.train_dataloader())


def _whole(settings: dict[str, Any]) -> Iterator[Any]:
    return _ours(settings)


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
