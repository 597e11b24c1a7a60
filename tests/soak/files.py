"""What is in a folder, and what a failure has done to it."""

from __future__ import annotations

import csv
import hashlib
import io
import re
from collections.abc import Iterator
from pathlib import Path

import torch

from bagnet.model.files import is_whole

Files = dict[str, bytes]
"""The name of each file, and what identifies its content."""

_UNNOTED = re.compile(r"\.lock$|\.filler$|wandb[/-]|confusion|\.part$|/\.partial/")
"""Locks, what is resumed, what has W&B's random ids, and pictures that vary."""


def files_of(folder: Path) -> Files:
    """All files of a folder. Checkpoints count as their tensors, tables without times."""
    paths = sorted(path for path in folder.rglob("*") if path.is_file())
    named = {str(path.relative_to(folder)): path for path in paths}
    return {name: _content(path) for name, path in named.items() if not _UNNOTED.search(name)}


def differences(expected: Files, found: Files) -> list[str]:
    """What is not as it must be."""
    return [
        f"{name} is {'missing' if name not in found else 'new' if name not in expected else 'else'}"
        for name in sorted(expected.keys() | found.keys())
        if expected.get(name) != found.get(name) and not name.endswith("starts.jsonl")
    ]


def damage(before: Files, after: Files, found: Files) -> Iterator[str]:
    """What a failure has damaged: each file must be as before, or as it would have become.

    Args:
        before: The files before the command that failed.
        after: Those that it would have left.
        found: Those that it has left.
    """
    for name, content in before.items():
        now = found.get(name)
        if now is None:
            yield f"{name} is lost"
        elif name.endswith((".csv", ".jsonl")) and now.startswith(content):
            continue
        elif now not in (content, after.get(name)):
            yield f"{name} was whole and is not"
    for name in found.keys() - before.keys():
        if name not in after:
            yield f"{name} is left over"
        elif name.endswith(".csv") and after[name].startswith(found[name]):
            continue
        elif found[name] != after[name] and not name.endswith("starts.jsonl"):
            yield f"{name} is not whole"


def _content(path: Path) -> bytes:
    if path.suffix == ".ckpt":
        return _tensors(path)
    data = path.read_bytes()
    if path.name == "metrics.csv":
        return _without_times(data)
    return data if path.suffix == ".jsonl" else hashlib.sha256(data).digest()


def _tensors(path: Path) -> bytes:
    if not is_whole(path):
        return b"damaged"
    checkpoint = torch.load(path, weights_only=True)
    digest = hashlib.sha256(str(checkpoint["global_step"]).encode())
    for name, tensor in checkpoint["state_dict"].items():
        digest.update(name.encode() + tensor.numpy().tobytes())
    return digest.digest()


def _without_times(data: bytes) -> bytes:
    """The steps, losses and accuracies of a run."""
    rows = csv.DictReader(io.StringIO(data.decode()))
    kept = ("step", "train/loss", "val/loss", "val/top1")
    return "\n".join(str([row.get(name) for name in kept]) for row in rows).encode()
