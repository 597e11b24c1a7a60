"""What a run that was struck has kept, compared with one that nothing disturbed."""

from __future__ import annotations

import hashlib
import os
import re
import time
from collections.abc import Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import torch

from datamodules.audit.verdict import audit
from datamodules.processes.leftovers import remove_leftovers
from tests.slurm.runs import check_wandb, curve

SHARED = Path("/dev/shm")
_RUN = Path("runs/x")


def training(whole: Path, struck: Path) -> Iterator[str]:
    """Weights, optimizer and all else in the checkpoints, to the bit; the table; the audit."""
    for name in ("last", "best"):
        one, other = (
            torch.load(folder / _RUN / f"checkpoints/{name}.ckpt", weights_only=True)
            for folder in (whole, struck)
        )
        for part in sorted(one.keys() | other.keys()):
            if part != "callbacks":  # those of Lightning's have paths
                found = list(differences(one.get(part), other.get(part), part))
                yield from (f"{name}.ckpt: {each}" for each in found[:1])
    if curve(struck, "x") != curve(whole, "x"):
        yield "metrics.csv has other rows"
    report = audit(struck / "audit")
    yield from (f"audit: {problem}" for problem in report.problems)
    yield from (f"audit: {each.verdict}" for each in report.epochs if each.verdict != "exact")


def training_and_wandb(whole: Path, found: Path) -> Iterator[str]:
    yield from training(whole, found)
    try:
        check_wandb(found / _RUN, curve(whole, "x"))
    except AssertionError as error:
        yield f"W&B: {str(error).splitlines()[0] if str(error) else 'other rows'}"


def files(whole: Path, found: Path) -> Iterator[str]:
    """All files, by their SHA-256; results by their rows and records, pictures by their names."""
    names = [sorted(_names(folder)) for folder in (whole, found)]
    if names[0] != names[1]:
        yield f"other files: {set(names[0]) ^ set(names[1])}"
        return
    for name in names[0]:
        paths = whole / name, found / name
        if name.endswith(".parquet"):
            one, other = map(pq.read_table, paths)
            is_same = one.equals(other, check_metadata=True)
        else:
            one, other = map(_digest, paths)
            is_same = one == other or name.endswith((".png", ".svg", ".pdf"))
        if not is_same:
            yield f"{name} differs"


def differences(one: Any, other: Any, path: str = "") -> Iterator[str]:
    """Where two checkpoints differ; a NaN is equal to itself."""
    if isinstance(one, torch.Tensor):
        if one.dtype != other.dtype or not torch.equal(one, other):
            yield f"{path} differs"
    elif isinstance(one, Mapping) and isinstance(other, Mapping):
        for name in sorted(one.keys() | other.keys(), key=str):
            if name not in one or name not in other:
                yield f"{path}.{name} is missing in one of them"
            else:
                yield from differences(one[name], other[name], f"{path}.{name}")
    elif isinstance(one, list | tuple) and len(one) == len(other):
        for number, pair in enumerate(zip(one, other, strict=True)):
            yield from differences(*pair, f"{path}.{number}")
    elif one != other and not (one != one and other != other):
        yield f"{path} is {one} and {other}"


def temporary_files(folder: Path) -> list[str]:
    """Files with temporary names; `*.damaged*` would be one that was not whole.

    A strike in the middle of a write may mix the old and the new last row of the table, which is
    then set aside as promised; its rows are compared.
    """
    paths = [path for pattern in (".*.tmp*", "*.damaged*") for path in folder.rglob(pattern)]
    return [str(path.relative_to(folder)) for path in paths if path.name != "metrics.damaged.csv"]


def shared_memory(before: set[str]) -> list[str]:
    """What is new in shared memory and in use by no process, after what a next start removes.

    It looks again and again for a while: other programs end, too.
    """
    for _ in range(10):
        remove_leftovers(seconds=0.0)
        new = {}
        for file in SHARED.iterdir():
            with suppress(FileNotFoundError):  # another program has just removed it
                if file.name not in before:
                    new[file.name] = file.stat().st_ino
        used = _in_use() if new else set()
        left = [name for name, inode in new.items() if inode not in used]
        if not left:
            break
        time.sleep(0.2)
    return left


def _digest(path: Path) -> bytes:
    """The SHA-256 of a file, without the speed in the tables of an experiment."""
    data, networks = path.read_bytes(), path.with_name("networks.json")
    if networks.exists():
        for speed in re.findall(rb'"images_per_second": ([0-9.]+)', networks.read_bytes()):
            data = data.replace(speed, b"").replace(f"| {float(speed):.3g} |".encode(), b"")
    return hashlib.sha256(data).digest()


def _names(folder: Path) -> Iterator[str]:
    for path in folder.rglob("*"):
        if path.is_file() and not path.name.startswith("."):
            yield str(path.relative_to(folder))


def _in_use() -> set[int]:
    """Inodes of the files that are open or in the memory of any process."""
    found = set()
    for process in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):  # it has just ended, or is another user's
            for line in (process / "maps").read_text().splitlines():
                found.add(int(line.split(maxsplit=5)[4]))
            for file in (process / "fd").iterdir():
                with suppress(OSError):
                    found.add(os.stat(file).st_ino)
    return found
