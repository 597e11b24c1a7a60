"""How many images a second the data pipeline makes ready, against the usual ones.

All variants take turns, in processes of their own, so that whatever else the machine does hits all
of them alike. Images are decoded, randomly cropped, flipped and batched.

* imagefolder: the images as files through `torchvision.datasets.ImageFolder`, PIL and the transforms of
  torchvision's reference training, which normalises in the workers.
* imagefolder_uint8: without that; the batches are uint8.
* webdataset: this project's shards through `wds.WebDataset`, and the same transforms.
* dali: this project's shards through NVIDIA DALI on the CPU, as many threads as the others have workers.
* ffcv: the same JPEGs, bytes unchanged, in FFCV's format and loader; as many threads, too. Its resize is OpenCV's.
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
from collections.abc import Sequence
from pathlib import Path

from bagnet.bench.lib.data_ceiling import ceiling
from bagnet.bench.lib.report import report
from bagnet.bench.lib.rounds import take_turns

REPOSITORY = Path(__file__).parents[2]
# Run as a file, because it also measures other checkouts.
PIPELINES = Path(__file__).parent / "lib" / "pipelines.py"
VARIANTS = (
    "imagefolder",
    "imagefolder_uint8",
    "webdataset",
    "dali",
    "ffcv",
    "whole",
    "ours",
)
FROM_FILES = ("imagefolder", "imagefolder_uint8", "ffcv")
OPTIONAL = ("dali", "ffcv")  # need packages of their own (benchmarks/data.md)


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
    add("--variants", nargs="+", choices=VARIANTS, help="by default all but dali and ffcv")
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
        names = options.variants or [name for name in VARIANTS if name not in OPTIONAL]
        commands = {name: (REPOSITORY, name, options.root) for name in names}
        if options.other:
            commands["other"] = (Path(options.other[0]).resolve(), "ours", Path(options.other[1]))
        folders = [name for name in commands if name in FROM_FILES]
        if folders:
            files = Path(stack.enter_context(tempfile.TemporaryDirectory()))
            _unpack(options.root, files)
            commands |= {name: (REPOSITORY, name, files) for name in folders}
        variants = {
            name: stack.enter_context(_Variant(*command, options))
            for name, command in commands.items()
        }
        for variant in variants.values():  # until it runs: the others' starts take the cores
            variant.measure()
        rates = take_turns(list(variants), options.rounds, lambda name: variants[name].measure())
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
        self._what = f"{name} of {checkout}"
        self._process = subprocess.Popen(
            [sys.executable, str(PIPELINES), json.dumps(settings)],
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
    from datamodules.shards.manifest import Manifest

    manifest = Manifest.load(root / "train")
    for sample in map(manifest.sample, range(manifest.num_samples)):
        folder = files / manifest.classes[sample.label]
        folder.mkdir(exist_ok=True)
        with open(manifest.location(sample.shard), "rb") as shard:
            shard.seek(sample.offset)
            (folder / f"{sample.key}.jpg").write_bytes(shard.read(sample.size))
