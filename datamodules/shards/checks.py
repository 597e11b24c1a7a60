"""Checks of a manifest: what it must not say, wherever it comes from."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from datamodules.shards.entries import sample_dtype

if TYPE_CHECKING:
    from datamodules.shards.manifest import Manifest

_AT_ONCE = 1 << 20  # samples, so that an index that is mapped is not copied as a whole


def check_consistency(manifest: Manifest) -> None:
    """Check that the parts of a manifest agree.

    Raises:
        ValueError: They do not; the message names the first difference.
    """
    where, samples = f"the manifest in {manifest.root}", manifest.samples
    names = samples.dtype.names or ()
    key_length = samples.dtype["key"].itemsize if "key" in names else 0
    if samples.ndim != 1 or samples.dtype != sample_dtype(key_length):
        raise ValueError(f"{where} has an index of the wrong format; pack it again")
    if manifest.num_samples == 0:
        raise ValueError(f"{where} lists no samples; pack a folder with images")
    texts = (*manifest.classes, *manifest.class_names)
    if not all(isinstance(text, str) for text in texts):
        raise ValueError(f"{where} has a class that is no text; pack it again")
    if len(set(manifest.classes)) < manifest.num_classes:
        raise ValueError(f"{where} has two classes with one id; pack it again")
    if len(manifest.class_names) != manifest.num_classes:
        raise ValueError(
            f"{where} has {len(manifest.class_names)} class names for {manifest.num_classes} "
            "classes"
        )
    total = sum(manifest.counts.tolist())  # in Python, because that cannot overflow
    if (manifest.shards.bytes < 0).any():
        raise ValueError(f"{where} has a shard of less than 0 bytes; pack it again")
    if total != manifest.num_samples or (manifest.counts < 0).any():
        raise ValueError(
            f"{where} counts {total} samples in its shards but its index has "
            f"{manifest.num_samples}; pack it again"
        )
    if (lost := _outside(manifest)) is not None:
        raise ValueError(
            f"{where} has sample {lost} at bytes that its shard does not have; pack it again"
        )


def _outside(manifest: Manifest) -> int | None:
    """The first sample that is not within its shard."""
    lengths = manifest.shards.bytes.astype(np.uint64)
    for begin in range(0, manifest.num_samples, _AT_ONCE):
        rows = manifest.samples[begin : begin + _AT_ONCE]
        end = begin + len(rows)
        first, last = manifest.shard_of([begin, end - 1])
        counts = np.diff(np.clip(manifest.starts[first : last + 2], begin, end))
        room = np.repeat(lengths[first : last + 1], counts)
        # Without a sum, which could overflow.
        bad = (rows["size"] > room) | (rows["offset"] > room - rows["size"])
        if bad.any():
            return begin + int(bad.argmax())
    return None


def check_labels(manifest: Manifest) -> None:
    """Check that all labels are classes. In a manifest that is loaded, a bad label is bad data.

    Raises:
        ValueError: A label is outside the classes.
    """
    low, high = int(manifest.samples["label"].min()), int(manifest.samples["label"].max())
    if low < 0 or high >= manifest.num_classes:
        raise ValueError(
            f"the manifest in {manifest.root} has the label {low if low < 0 else high}, outside "
            f"its {manifest.num_classes} classes; correct the labels and pack it again"
        )


def check_urls(manifest: Manifest, allow_pipe: bool) -> None:
    """Check that every shard may be opened just because a manifest names it.

    Raises:
        ValueError: A remote manifest leads outside its folder, or a shard is the output of a
            command and `allow_pipe` is false.
    """
    if manifest.base is not None and manifest.shards.elsewhere.any():
        raise ValueError(
            f"the manifest in {manifest.base} lists shards outside its folder, which a remote "
            "manifest may not; copy it here and give its folder as --data.root"
        )
    if not allow_pipe and manifest.has_pipes:
        raise ValueError(
            f"the manifest in {manifest.root} reads its shards through commands (pipe:...), and "
            "one from elsewhere could run anything; if you trust it, give --data.allow_pipe true "
            "(or --allow_pipe, to verify it)"
        )
