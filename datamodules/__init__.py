"""The data side: packing images into shards, planning epochs, reading them back exactly.

`ImageNetDataModule` is the public API. It is imported when it is first used, so that importing
`datamodules` stays fast. Here: everything about data. Not here: networks and their training
(`bagnet`), which this package never imports.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from datamodules.imagenet import ImageNetDataModule

__all__ = ["ImageNetDataModule"]


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module("datamodules.imagenet"), name)
