"""What the commands share: they pack each split, compare its classes, and say what was done."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any

from rich.console import Console

from datamodules.common.progress import progress
from datamodules.pack.images import Quality
from datamodules.pack.job import SKIPPED, Job, Packed
from datamodules.pack.options import PackOptions
from datamodules.pack.sources.listing import Listing
from datamodules.processes.pool import Pool
from datamodules.shards.manifest import MANIFEST, Manifest

console = Console(highlight=False, soft_wrap=True)


def pack(
    options: PackOptions,
    sources: Sequence[Path],
    list_images: Callable[[Pool, Callable[[int], Any]], list[Listing]],
    pool: Pool | None = None,
) -> None:
    """Pack all splits of a source.

    Args:
        options: The command's options.
        sources: What is read; the output folder must be another.
        list_images: Given the workers and a function that shows progress, lists each split.
        pool: The workers, if several sources are packed one after the other.

    Raises:
        ValueError: The input makes no sense, or the output folder has other data.
        OSError: The output cannot be written.
    """
    if options.out.resolve() in [source.resolve() for source in sources]:
        raise ValueError(f"OUT is {options.out}, the same as SRC; give another folder")
    with nullcontext(pool) if pool else Pool(options.workers) as pool:
        with progress(console, "list", None) as update:
            listings = list_images(pool, update)
        jobs = [Job(listing, options.out / listing.split, options) for listing in listings]
        for job in jobs:  # all of them, before the first one takes an hour
            job.check()
        check_classes(options.out, [job.listing.split for job in jobs], jobs[0].listing.classes)
        for job in jobs:
            packed, count = job.finished(), len(job.listing.entries)
            if packed is None:
                with progress(console, f"{job.listing.split} (reading)", count) as update:
                    job.prepare(pool, update)
                with progress(console, job.listing.split, count) as update:
                    packed = job.run(pool, update)
            tell(job.listing.split, packed, options.quality)
    if not any(listing.evaluation for listing in listings):  # on which nothing is trained
        tell_next_step(options.out)


def classes_of_other_split(out: Path, splits: Iterable[str]) -> tuple[str, ...]:
    """The classes of the split that is packed already and not one of these; empty if none is."""
    for other in {"train", "val"} - set(splits):
        if (out / other / MANIFEST).exists():
            return Manifest.load(out / other, allow_pipe=True).classes
    return ()


def check_classes(out: Path, splits: Iterable[str], classes: tuple[str, ...]) -> None:
    """Raise a ValueError if the split that is packed already has other classes than these."""
    others = classes_of_other_split(out, splits)
    if others and others != classes:
        raise ValueError(
            f"the other split in {out} has {len(others)} classes, and they are not the "
            f"{len(classes)} of this input; take both from one source"
        )


def tell(split: str, packed: Packed, quality: Quality = "lossless") -> None:
    """Print what became of a split."""
    facts = [sizes(packed.manifest), f"{len(packed.skipped)} skipped"]
    if packed.seconds == 0:
        facts.append("was packed already")
    else:
        facts.append(f"{packed.written / packed.seconds:,.0f} images/s")
        if packed.reused_shards:
            facts.append(f"{packed.reused_shards} shards were done before")
    console.print(f"{split}: {', '.join(facts)}")
    if packed.encoded:
        made = "PNGs" if quality == "lossless" else f"JPEGs of quality {quality}"
        remedy = "" if quality == "lossless" else "; --quality lossless makes PNGs"
        console.print(f"  encoded {packed.encoded:,} images again, as {made}{remedy}")
    for name, reason in packed.skipped[:10]:
        console.print(f"  skipped {name} ({reason})", markup=False)
    if len(packed.skipped) > 10:
        console.print(f"  all of them: {packed.manifest.root / SKIPPED}", markup=False)


def tell_next_step(out: Path) -> None:
    """Print the command that trains on the data."""
    pipes = False
    for split in ("train", "val"):
        if (out / split / MANIFEST).exists():
            pipes |= Manifest.load(out / split, allow_pipe=True).has_pipes
        else:
            console.print(f"note: there is no {split} split yet")
    allowed = " --data.allow_pipe true" if pipes else ""
    console.print(f"next: python train.py --data.root {out}{allowed}", markup=False)


def manifests_in(out: Path, allow_pipe: bool) -> list[Manifest]:
    """The manifests of packed data, train first, or of one split's folder.

    Args:
        out: The folder.
        allow_pipe: Whether shards may be the output of commands.

    Raises:
        ValueError: There are none, or one is damaged.
    """
    folders = [out / name for name in ("train", "val") if (out / name).is_dir()]
    if (out / MANIFEST).exists():
        folders.append(out)
    if not folders:
        raise ValueError(f"{out} has neither train/ nor val/; OUT is the folder of a pack")
    return [Manifest.load(folder, allow_pipe=allow_pipe) for folder in folders]


def sizes(manifest: Manifest) -> str:
    """Images, shards, bytes and classes, for people."""
    shards = len(manifest.shards)
    return (
        f"{manifest.num_samples:,} images, {shards:,} shard{'s' * (shards != 1)}, "
        f"{bytes_in_words(int(manifest.shards.bytes.sum()))}, {manifest.num_classes:,} classes"
    )


def bytes_in_words(size: float) -> str:
    """A number of bytes for people: `1.2 MB`."""
    factor, unit = (1e9, "GB") if size >= 1e9 else (1e6, "MB") if size >= 1e6 else (1e3, "kB")
    return f"{size / factor:.1f} {unit}" if size >= 100 else f"{size:.0f} bytes"
