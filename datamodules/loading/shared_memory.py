"""Shared memory that a worker fills again and again.

torch hands each batch over in new shared memory, and that is dear: the system clears every page, and takes it away when the
batch is gone (`benchmarks/data.md` has the figures). Here a worker keeps its memory, and fills it again as soon as nobody in
the training process refers to what it held: not the loop, not a view, not a callback that kept a batch. So nobody ever sees
a batch change.
"""

from __future__ import annotations

import errno
import math
import os
import weakref
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, cast

import torch
from torch import Tensor

MOST = 64
"""Slots of a process. In use are those that it reads ahead into, and one for each batch that somebody keeps."""


class Slots:
    """The slots of one process; not for several threads of it."""

    def __init__(self) -> None:
        self._slots: list[Tensor] = []

    def take(self, shape: Sequence[int]) -> Tensor:
        """Memory to fill, uint8 of this shape, with whatever it held last; the same again until it is handed over.

        It lies in a free slot; if all are in use, it is new memory.

        Raises:
            OSError: There is not enough shared memory on this machine.
        """
        size = math.prod(shape)
        slot = next((slot for slot in self._slots if not slot[-1] and len(slot) > size), None)
        if slot is None:
            self._slots = [slot for slot in self._slots if slot[-1]]  # the others are too small
            if len(self._slots) == MOST:
                return torch.empty(*shape, dtype=torch.uint8)
            slot = _shared(size + 1)
            self._slots.append(slot)
        return slot[:size].view(*shape)

    def hand_over(self, tensor: Tensor) -> Tensor:
        """What to pickle for another process instead of a tensor, which is what arrives there.

        One of uint8 goes in a slot, where it may lie already. That is in use until nothing in the other process refers to
        what arrived, or to a view of it. Others go within the message.

        Raises:
            OSError: There is not enough shared memory on this machine.
        """
        if tensor.dtype != torch.uint8:
            return cast(Tensor, _Copied(tensor))
        if self._slot_of(tensor) is None:
            tensor = self.take(tensor.shape).copy_(tensor)
        slot = self._slot_of(tensor)
        if slot is None:
            return tensor
        slot[-1] = 1
        return cast(Tensor, _Lent(tensor, slot[-1:]))

    def _slot_of(self, tensor: Tensor) -> Tensor | None:
        return next((slot for slot in self._slots if _begin(slot) == _begin(tensor)), None)


def _shared(size: int) -> Tensor:
    try:
        return torch.zeros(size, dtype=torch.uint8).share_memory_()
    except RuntimeError as error:
        raise OSError(
            errno.ENOSPC,
            f"a worker gets no more shared memory for a batch of {size / 2**20:.0f} MiB ({error}); enlarge "
            "/dev/shm (docker run --shm-size), or use fewer --data.workers or a smaller --data.batch_size",
        ) from None


def _begin(tensor: Tensor) -> int:
    return tensor.untyped_storage().data_ptr()


class _Lent(NamedTuple):
    tensor: Tensor
    in_use: Tensor
    """uint8 (1,) behind it in the slot: 1 until nobody needs it any more."""

    def __reduce__(self) -> tuple[Callable[..., Tensor], tuple[Any, ...]]:
        return _arrive, tuple(self)


class _Copied(NamedTuple):
    tensor: Tensor

    def __reduce__(self) -> tuple[Callable[..., Tensor], tuple[Any, ...]]:
        return torch.from_numpy, (self.tensor.numpy(),)


def _arrive(tensor: Tensor, in_use: Tensor) -> Tensor:
    # By way of numpy: the array lives as long as any tensor does that shares its memory, but a tensor not as long as its views.
    array = tensor.numpy()
    weakref.finalize(array, _give_back, in_use, os.getpid()).atexit = False
    return torch.from_numpy(array)


def _give_back(in_use: Tensor, owner: int) -> None:
    if os.getpid() == owner:  # and not a fork of it, which drops no more than its own references
        in_use.zero_()
