"""How many images a second the data pipeline makes ready, against the usual ones.

All variants take turns, each round in processes of their own, so that whatever else the machine
does hits all of them alike. Images are decoded, randomly cropped, flipped and batched.

* ours: this project's loader, uint8 batches.
* webdataset: the same shards through `wds.WebDataset`, PIL and torchvision's transforms v2.
* imagefolder: the same images as files through `torchvision.datasets.ImageFolder`, PIL and v2.
* other: the loader of another checkout, to see what a change costs.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import torch
import torchvision
import webdataset
from rich.console import Console
from rich.progress import track

from bagnet.bench.report import report

REPOSITORY = Path(__file__).parents[2]


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
    add("--variants", nargs="+", default=["ours", "webdataset", "imagefolder"])
    add(
        "--other", nargs=2, metavar=("CHECKOUT", "DIR"), help="another checkout, and data it packed"
    )
    add("--out", type=Path, help="write the figures there as JSON")
    options = parser.parse_args(arguments)
    return _measure_all(options)


def _measure_all(options: argparse.Namespace) -> int:
    with ExitStack() as stack:
        commands = {name: (REPOSITORY, name, options.root) for name in options.variants}
        if options.other:
            commands["other"] = (Path(options.other[0]).resolve(), "ours", Path(options.other[1]))
        if "imagefolder" in commands:
            files = Path(stack.enter_context(tempfile.TemporaryDirectory()))
            _unpack(options.root, files)
            commands["imagefolder"] = (REPOSITORY, "imagefolder", files)
        rates: dict[str, list[float]] = {name: [] for name in commands}
        rounds = [name for _ in range(options.rounds) for name in commands]
        for name in track(rounds, console=Console(stderr=True), transient=True):
            rates[name].append(_measure_apart(*commands[name], options))
    report(rates, options, "images")
    return 0


def _measure_apart(checkout: Path, variant: str, root: Path, options: argparse.Namespace) -> float:
    """Images a second of one variant, in a process of its own."""
    settings = {
        "variant": variant,
        "root": str(root.resolve()),
        "workers": options.workers,
        "batch_size": options.batch_size,
        "image_size": options.image_size,
        "seconds": options.seconds,
    }
    run = subprocess.run(
        [sys.executable, __file__, json.dumps(settings)],
        env={**os.environ, "PYTHONPATH": str(checkout), "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
    )
    if run.returncode:
        reason = run.stderr.strip().splitlines()[-1:] or ["no message"]
        raise ValueError(f"{variant} of {checkout} failed: {reason[0]}")
    return float(run.stdout)


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


def measure(settings: dict[str, Any]) -> float:
    """Images a second, after two seconds of warm-up, in this process."""
    torch.set_num_threads(1)
    batches = globals()[f"_{settings['variant']}"](settings)
    begin = time.perf_counter()
    while time.perf_counter() - begin < 2.0:
        next(batches)
    images, begin = 0, time.perf_counter()
    while time.perf_counter() - begin < settings["seconds"]:
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


def _usual_transform(image_size: int) -> Any:
    from torchvision.transforms import v2

    steps = [v2.RandomResizedCrop(image_size, antialias=True), v2.RandomHorizontalFlip()]
    return v2.Compose([*steps, v2.PILToTensor()])


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


def _all_of_them(source: Any) -> Any:
    return source  # each worker reads all: a benchmark may have fewer shards than workers


def _imagefolder(settings: dict[str, Any]) -> Iterator[Any]:
    transform = _usual_transform(settings["image_size"])
    folder = torchvision.datasets.ImageFolder(settings["root"], transform)
    return _for_ever(_usual_loader(folder, settings, shuffle=True))


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
    print(measure(json.loads(sys.argv[1])))
