"""How far a measurement is within a batch, by the passes that its network has made.

An experiment may run the network hundreds of times on each image, so a batch can take many minutes.
How often that is follows from the batch before.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from torch import nn

SECONDS = 0.5  # between two reports


class Passes:
    """Counts the images that enter a network, and reports how many of a batch are done.

    Args:
        model: The network, which must run eagerly.
        add: Called with the images done since the last call, a fraction of one or several.
    """

    def __init__(self, model: nn.Module, add: Callable[[float], None]) -> None:
        first = next(module for module in model.modules() if not list(module.children()))
        self._hook = first.register_forward_pre_hook(self._count)
        self._add = add
        self._per_image = 0.0  # not known yet
        self._images, self._entered, self._reported, self._last = 0, 0, 0.0, 0.0

    @contextmanager
    def batch(self, images: int) -> Iterator[None]:
        """Report the progress of a batch while a block measures it."""
        self._images, self._entered, self._reported = images, 0, 0.0
        self._last = time.monotonic()
        yield
        if self._entered:
            self._per_image = self._entered / images
        self._add(images - self._reported)

    def close(self) -> None:
        """Leave the network as it was."""
        self._hook.remove()

    def _count(self, module: nn.Module, inputs: tuple[Any, ...]) -> None:
        self._entered += len(inputs[0])
        now = time.monotonic()
        if now - self._last >= SECONDS:
            done = self._entered / self._per_image if self._per_image else 0.0
            done = max(self._reported, min(done, float(self._images)))
            self._add(done - self._reported)  # also if it is 0: a log shows that work goes on
            self._reported, self._last = done, now
