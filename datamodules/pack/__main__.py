"""The command line of ``python -m datamodules.pack``."""

from __future__ import annotations

import argparse
import errno
import signal
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from types import FrameType

from rich.console import Console

from datamodules.common.pool import Workers
from datamodules.common.progress import progress
from datamodules.pack.arguments import parse_arguments
from datamodules.pack.expand import shards_by_split
from datamodules.pack.ilsvrc import list_ilsvrc
from datamodules.pack.imagefolder import list_imagefolder
from datamodules.pack.images import ImageOptions
from datamodules.pack.index import Index
from datamodules.pack.job import SKIPPED, Job, Options, Packed
from datamodules.pack.listing import Listing
from datamodules.pack.verify import has_pipes, packed_splits, verify
from datamodules.pack.wds import decide_classes, list_wds
from datamodules.remote.sources import SourceError
from datamodules.shards.manifest import MANIFEST, Manifest

STOPPING = (signal.SIGTERM, signal.SIGUSR1)

console = Console(highlight=False, soft_wrap=True)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; returns the exit code, which is 128 + the signal where one ended it."""
    options = parse_arguments(arguments)
    # `kill` and SLURM's warning of its time limit end a run as Ctrl-C does: at once, with nothing half-written.
    previous = {each: signal.signal(each, _interrupt) for each in STOPPING}
    commands = {"verify": _verify, "index": _index}
    again = "begins again" if options.command in commands else "goes on where it stopped"
    try:
        return commands.get(options.command, _pack)(options)
    except KeyboardInterrupt as interrupt:
        print(f"\ninterrupted; the same command {again}", file=sys.stderr)
        return 128 + (interrupt.args[0] if interrupt.args else signal.SIGINT)
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
            print(
                f"error: {options.out} cannot take more data ({error.strerror}); make room, then "
                f"the same command {again}",
                file=sys.stderr,
            )
        else:
            print(f"error: {error}", file=sys.stderr)
        return 2
    except (ValueError, SourceError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    finally:
        for each, handler in previous.items():
            signal.signal(each, handler)


def _pack(options: argparse.Namespace) -> int:
    images = ImageOptions(resize=options.resize, quality=options.quality)
    job_options = Options(options.samples_per_shard, options.seed, images)
    with Workers(options.workers) as workers:
        jobs = [
            Job(listing, options.out / listing.split, job_options)
            for listing in _listings(options, workers)
        ]
        for job in jobs:  # all of them before the first one takes an hour
            job.check()
        splits = [job.listing.split for job in jobs]
        _check_classes(options.out, splits, jobs[0].listing.classes)
        for job in jobs:
            packed = job.finished()
            if packed is None:
                total = len(job.listing.entries)
                with progress(console, job.listing.split, total) as update:
                    packed = job.run(workers, update)
            _say(job.listing.split, packed)
    _say_next(options.out)
    return 0


def _index(options: argparse.Namespace) -> int:
    shards = shards_by_split(options.src, options.split)
    indexes = [Index(split, locations, options.out / split) for split, locations in shards.items()]
    known = _classes_there(options.out, shards)
    scans = {}
    with Workers(options.workers) as workers:
        for index in indexes:
            with progress(console, index.split, None) as update:
                scans[index.split] = index.read(workers, update)
    classes, class_names = decide_classes(scans, options.class_names, known)
    _check_classes(options.out, shards, classes)
    for index in indexes:  # before the first one is complete
        index.report()
    for index in indexes:
        _say(index.split, index.save(classes, class_names))
    _say_next(options.out)
    return 0


def _listings(options: argparse.Namespace, workers: Workers) -> list[Listing]:
    sources = [Path(source) for source in options.src]
    if options.out.resolve() in [source.resolve() for source in sources]:
        raise ValueError(f"OUT is {options.out}, the same as SRC; give another folder")
    if options.command == "imagefolder":
        with console.status(f"listing {sources[0]}"):
            return list_imagefolder(sources[0], options.class_names)
    with progress(console, "list", None) as update:
        if options.command == "ilsvrc":
            return list_ilsvrc(sources[0], workers, update, options.val_labels, options.class_names)
        shards = shards_by_split(options.src, options.split)
        known = _classes_there(options.out, shards)
        return list_wds(shards, workers, update, options.class_names, known)


def _classes_there(out: Path, splits: Iterable[str]) -> tuple[str, ...]:
    """The classes of the split that is there already and not among these; none if there is none."""
    for other in {"train", "val"} - set(splits):
        if (out / other / MANIFEST).exists():
            return Manifest.load(out / other, allow_pipe=True).classes
    return ()


def _check_classes(out: Path, splits: Iterable[str], classes: tuple[str, ...]) -> None:
    """Refuse splits whose classes differ from those of the split that is there already."""
    there = _classes_there(out, splits)
    if there and there != classes:
        raise ValueError(
            f"the other split in {out} has {len(there)} classes and this input {len(classes)}, or "
            "others; take both from one source"
        )


def _verify(options: argparse.Namespace) -> int:
    wrong = 0
    manifests = packed_splits(options.out, options.allow_pipe)
    with Workers(options.workers) as workers:
        for manifest in manifests:
            name = manifest.root.name
            with progress(console, name, manifest.num_samples) as update:
                verdict = verify(manifest, workers, update)
            for problem in verdict.problems:
                console.print(f"{name}/{problem}", markup=False)
            wrong += len(verdict.problems)
            console.print(f"{name}: {_sizes(manifest)}, {len(verdict.problems)} problems")
    return 1 if wrong else 0


def _say(split: str, packed: Packed) -> None:
    facts = [_sizes(packed.manifest), f"{len(packed.skipped)} skipped"]
    if packed.seconds == 0:
        facts.append("was packed already")
    else:
        facts.append(f"{packed.written / packed.seconds:,.0f} images/s")
        if packed.reused_shards:
            facts.append(f"{packed.reused_shards} shards were done before")
    console.print(f"{split}: {', '.join(facts)}")
    for name, reason in packed.skipped[:10]:
        console.print(f"  skipped {name} ({reason})", markup=False)
    if len(packed.skipped) > 10:
        console.print(f"  all of them: {packed.manifest.root / SKIPPED}", markup=False)


def _say_next(out: Path) -> None:
    pipes = False
    for split in ("train", "val"):
        if (out / split / MANIFEST).exists():
            pipes |= has_pipes(Manifest.load(out / split, allow_pipe=True))
        else:
            console.print(f"note: there is no {split} split yet")
    allowed = " --data.allow_pipe true" if pipes else ""
    console.print(f"next: python train.py --data.root {out}{allowed}", markup=False)


def _sizes(manifest: Manifest) -> str:
    size = sum(shard.bytes for shard in manifest.shards)
    unit = next(u for u in (1e9, 1e6, 1e3) if size >= u or u == 1e3)
    return (
        f"{manifest.num_samples:,} images, {len(manifest.shards):,} shards, "
        f"{size / unit:.1f} {({1e9: 'GB', 1e6: 'MB', 1e3: 'kB'})[unit]}, "
        f"{manifest.num_classes:,} classes"
    )


def _interrupt(number: int, frame: FrameType | None) -> None:
    raise KeyboardInterrupt(number)


if __name__ == "__main__":
    sys.exit(main())
