"""Measures how fast the data pipeline prepares images, beside the usual pipelines.

Each variant has a process of its own, and they take turns, so that other load on the machine
affects all of them alike. Images are decoded, randomly cropped, flipped and batched.

* imagefolder: image files, read by torchvision's ImageFolder with PIL and the transforms of its
  reference training, which normalise in the workers.
* imagefolder_uint8: without the normalisation; the batches are uint8.
* webdataset: this project's shards, read by webdataset, with the transforms of imagefolder.
* dali: this project's shards, read by NVIDIA DALI on the CPU with a thread for each worker.
* ffcv: the same JPEGs in FFCV's format and loader, with a thread for each worker. It resizes with
  OpenCV.
* whole: this project's loader, if it had to decode whole images (without a C compiler).
* ours: this project's loader; its batches are uint8, and the device normalises them.
* other: the loader of --other, to see what a change costs.

dali and ffcv need packages of their own (benchmarks/data.md).
"""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

from bagnet.bench.lib.pipelines import PIPELINES
from bagnet.bench.lib.report import report
from bagnet.bench.lib.rounds import chosen, take_turns
from bagnet.bench.options import DataOptions
from datamodules.shards.manifest import Manifest

REPOSITORY = Path(__file__).parents[2]
SERVER = Path(__file__).parent / "lib" / "pipelines.py"
FROM_FILES = ("imagefolder", "imagefolder_uint8", "ffcv")
OPTIONAL = ("dali", "ffcv")


def run(options: DataOptions) -> None:
    """Run the benchmark and print its table.

    Raises:
        ValueError: A variant does not exist or fails.
    """
    names = chosen(PIPELINES, options.variants, OPTIONAL)
    with contextlib.ExitStack() as stack:
        sources = {name: (REPOSITORY, name, options.root) for name in names}
        if options.other is not None:
            sources["other"] = (options.other, "ours", options.other_root or options.root)
        if from_files := [name for name in names if name in FROM_FILES]:
            folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
            _unpack(options.root, folder)
            sources |= {name: (REPOSITORY, name, folder) for name in from_files}
        variants = {
            name: stack.enter_context(_Variant(*source, options))
            for name, source in sources.items()
        }
        for variant in variants.values():
            variant.measure()  # until it runs; starting takes the cores from the others
        rates = take_turns(list(variants), options.rounds, lambda name: variants[name].measure())
    report(rates, options, "images")


class _Variant:
    """A process that measures when it is told to. Between turns it has a few batches ready."""

    def __init__(self, checkout: Path, pipeline: str, root: Path, options: DataOptions) -> None:
        settings = {
            "pipeline": pipeline,
            "root": str(root.resolve()),
            "workers": options.workers,
            "batch_size": options.batch_size,
            "image_size": options.image_size,
            "seconds": options.seconds,
        }
        self._name = f"{pipeline} of {checkout}"
        self._process = subprocess.Popen(
            # A file and not a module, because the modules may be those of another checkout.
            [sys.executable, str(SERVER), json.dumps(settings)],
            env={**os.environ, "PYTHONPATH": str(checkout.resolve()), "OMP_NUM_THREADS": "1"},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def __enter__(self) -> _Variant:
        return self

    def __exit__(self, *_: object) -> None:
        self._process.kill()  # its workers end with it
        self._process.communicate()

    def measure(self) -> float:
        """Images per second.

        Raises:
            ValueError: The process failed; the message has the last line of its output.
        """
        requests, answers = self._process.stdin, self._process.stdout
        assert requests is not None
        assert answers is not None
        with contextlib.suppress(BrokenPipeError):
            print("go", file=requests, flush=True)
        rate = answers.readline()
        if not rate:
            lines = self._process.communicate()[1].strip().splitlines() or ["no message"]
            raise ValueError(f"{self._name} failed: {lines[-1]}")
        return float(rate)


def _unpack(root: Path, files: Path) -> None:
    """Write the images of the train split as files, with a folder for each class."""
    manifest = Manifest.load(root / "train")
    for sample in map(manifest.sample, range(manifest.num_samples)):
        folder = files / manifest.classes[sample.label]
        folder.mkdir(exist_ok=True)
        with open(manifest.location(sample.shard), "rb") as shard:
            shard.seek(sample.offset)
            (folder / f"{sample.key}.jpg").write_bytes(shard.read(sample.size))
