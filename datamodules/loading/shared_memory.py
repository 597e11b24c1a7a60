"""Shared memory that a worker fills again and again.

torch hands over each batch in new shared memory. That is expensive, because the system clears every
page and takes it away when the batch is gone (`benchmarks/data.md` has the figures). Here a worker
keeps its buffers, and reuses one as soon as nothing in the training process refers to its content:
not the loop, not a view, not a callback that kept a batch. So nobody ever sees a batch change.
"""

from __future__ import annotations

import errno
import math
import os
import weakref
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, cast

import numpy as np
import torch
from torch import Tensor

MAX_BUFFERS = 64
"""Buffers of a process: those it prefetches into, and one for each batch that somebody keeps."""


class SharedBuffers:
    """The shared buffers of one process. Not for use by several threads.

    The last byte of a buffer is 1 while the other process uses its content.
    """

    def __init__(self) -> None:
        self._buffers: list[Tensor] = []

    def take(self, shape: Sequence[int]) -> Tensor:
        """Get memory to fill: uint8 of this shape, with arbitrary content.

        It is in a free buffer, the same one until it is handed over. If all are in use, it is
        ordinary memory.

        Raises:
            OSError: This machine has too little shared memory.
        """
        size = math.prod(shape)
        free = (buffer for buffer in self._buffers if not buffer[-1] and len(buffer) > size)
        buffer = next(free, None)
        if buffer is None:
            self._buffers = [buffer for buffer in self._buffers if buffer[-1]]  # others: too small
            if len(self._buffers) == MAX_BUFFERS:
                return torch.empty(*shape, dtype=torch.uint8)
            buffer = _shared(size + 1)
            self._buffers.append(buffer)
        return buffer[:size].view(*shape)

    def hand_over(self, tensor: Tensor) -> Tensor:
        """Get what to pickle for the other process, where it arrives as this tensor.

        A uint8 tensor is handed over in a buffer, into which it is copied unless it is there
        already. The buffer is in use until nothing in the other process refers to what arrived, or
        to a view of it. Other tensors become part of the message.

        Raises:
            OSError: This machine has too little shared memory.
        """
        if tensor.dtype != torch.uint8:
            return cast(Tensor, _CopiedTensor(tensor))
        if self._buffer_of(tensor) is None:
            tensor = self.take(tensor.shape).copy_(tensor)
        buffer = self._buffer_of(tensor)
        if buffer is None:
            return tensor
        buffer[-1] = 1
        return cast(Tensor, _SharedTensor(tensor, buffer[-1:]))

    def _buffer_of(self, tensor: Tensor) -> Tensor | None:
        same = (buffer for buffer in self._buffers if _address(buffer) == _address(tensor))
        return next(same, None)


def _shared(size: int) -> Tensor:
    share: Callable[[Tensor], Tensor] = Tensor.share_memory_  # torch does not annotate it
    try:
        return share(torch.zeros(size, dtype=torch.uint8))
    except RuntimeError as error:
        raise OSError(
            errno.ENOSPC,
            f"there is no shared memory left for a batch of {size / 2**20:.0f} MiB ({error}); "
            "enlarge /dev/shm (docker run --shm-size), or use fewer --data.workers or a smaller "
            "--data.batch_size",
        ) from None


def _address(tensor: Tensor) -> int:
    return tensor.untyped_storage().data_ptr()


class _SharedTensor(NamedTuple):
    tensor: Tensor
    in_use: Tensor
    """uint8 (1,), the last byte of the buffer."""

    def __reduce__(self) -> tuple[Callable[..., Tensor], tuple[Any, ...]]:
        return _receive, tuple(self)


class _CopiedTensor(NamedTuple):
    tensor: Tensor

    def __reduce__(self) -> tuple[Callable[..., Tensor], tuple[Any, ...]]:
        return torch.from_numpy, (self.tensor.numpy(),)


def _receive(tensor: Tensor, in_use: Tensor) -> Tensor:
    # As NumPy arrays: an array lives as long as any tensor that shares its memory, but a tensor may
    # die before its views. And what arrives in inference mode, as in a validation, is a tensor that
    # may not be written to after it.
    array = tensor.numpy()
    weakref.finalize(array, _release, in_use.numpy(), os.getpid()).atexit = False
    return torch.from_numpy(array)


def _release(in_use: np.ndarray, owner: int) -> None:
    if os.getpid() == owner:  # a fork of it drops only its own references
        in_use[0] = 0
