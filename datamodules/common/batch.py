"""The batch, and other types with one meaning in the whole project."""

from __future__ import annotations

from torch import Tensor

Batch = tuple[Tensor, Tensor, Tensor]
"""Images, uint8 (B, 3, H, W), RGB in channels-last memory; labels, int64 (B,); sample ids, int64
(B,), which are the samples' numbers in the manifest."""

UNREADABLE = -1
"""Label of a place in a batch whose sample could not be read; loss and metrics ignore it."""

Box = tuple[int, int, int, int]
"""A rectangle of an image in pixels: top, left, bottom, right; half-open."""
