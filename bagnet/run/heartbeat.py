"""Ranks notice when one of them is gone, is stopped, or hangs, and end instead of waiting for it.

On a machine with several ranks, whoever started them sees that one has died. Nobody sees that one
is stopped, or waits for a disk that never answers: the others wait for it in a collective operation
until that gives up, with a page of errors that name no rank.
"""

from __future__ import annotations

import datetime
import os
import socket
import threading
from pathlib import Path
from typing import Any

import torch
from pytorch_lightning import Callback, LightningModule, Trainer

from bagnet.run import ranks

_SECONDS = 1.0
"""Between two messages of a rank."""

_FOREVER = datetime.timedelta(days=3650)
_PHASE = 2**32
_LEAVES, _GIVES_UP = -1, -2


class Heartbeat(Callback):
    """Ends all ranks when one of them is gone or stuck, and names it.

    A thread of each rank tells rank 0 every second how far its training is, and rank 0 answers,
    through a gloo group of the hosts. A rank is stuck when it has sent nothing for `minutes`, as
    one that is stopped; or when it has made no progress for that long while another one is further,
    and so waits for it. Time in which this process was stopped itself does not count.

    It belongs before all other callbacks, in which a rank could hang.

    Args:
        minutes: How long a rank waits for the others.
    """

    def __init__(self, minutes: float) -> None:
        self.minutes = minutes
        self._lines: dict[int, _Line] = {}
        self._closed = threading.Event()
        self._progress = 0

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        if trainer.world_size == 1:
            return
        mine = (_numbering(), os.getpid())
        self._rank, self._places = trainer.global_rank, [mine] * trainer.world_size
        torch.distributed.all_gather_object(self._places, mine)
        group = torch.distributed.new_group(backend="gloo", timeout=_FOREVER)
        self._closed, self._progress = threading.Event(), 0
        # After all callbacks, and before the forward pass, where DDP and SyncBatchNorm may wait.
        strategy: Any = trainer.strategy
        strategy.on_train_batch_start = self._count
        others = range(1, trainer.world_size) if trainer.is_global_zero else [0]
        self._lines = {rank: _Line(rank, self, group) for rank in others}
        threading.Thread(target=self._watch, daemon=True).start()

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        self._close()

    def on_exception(
        self, trainer: Trainer, pl_module: LightningModule, exception: BaseException
    ) -> None:
        self._close()

    def _close(self) -> None:
        self._closed.set()
        for line in self._lines.values():
            line.thread.join(5.0)
        self._lines = {}

    def _begin_phase(self, *arguments: Any, **more: Any) -> None:
        """Begin to count anew: ranks may have different numbers of batches in a validation."""
        self._progress = (self._progress // _PHASE + 1) * _PHASE

    def _count(self, *arguments: Any, **more: Any) -> None:
        self._progress += 1

    on_train_epoch_start = on_train_epoch_end = _begin_phase
    on_validation_epoch_start = on_validation_epoch_end = _begin_phase
    on_test_epoch_start = on_test_epoch_end = _begin_phase
    on_train_batch_start = on_before_backward = on_train_batch_end = _count
    on_validation_batch_start = on_validation_batch_end = _count
    on_test_batch_start = on_test_batch_end = _count

    def say(self) -> int:
        """What to tell another rank."""
        if ranks.are_giving_up(wait=0.0):
            return _GIVES_UP
        return _LEAVES if self._closed.is_set() else self._progress

    def pause(self) -> None:
        """Wait before the next message, unless it is the last one."""
        self._closed.wait(_SECONDS)

    def _watch(self) -> None:
        """Count the seconds, one by one: a clock would go on while this process is stopped."""
        limit, before = 60 * self.minutes, dict[int, int]()
        behind = dict.fromkeys(range(len(self._places)), 0.0)
        while not self._closed.wait(_SECONDS):
            lines = {rank: line for rank, line in self._lines.items() if line.thread.is_alive()}
            for rank, line in lines.items():
                line.silent += _SECONDS
                if line.silent > limit:
                    self._give_up(rank, "has not answered")
            if 0 in self._lines:
                continue  # rank 0 compares them all
            progress = {0: self._progress, **{rank: line.heard for rank, line in lines.items()}}
            furthest = max(progress.values())
            for rank, value in progress.items():
                waited_for = value == before.get(rank) and value < furthest
                behind[rank] = behind[rank] + _SECONDS if waited_for else 0.0
                if behind[rank] > limit:
                    self._give_up(rank, "has made others wait, without any progress,")
            before = progress

    def _give_up(self, rank: int, what: str) -> None:
        (numbering, process), (here, _) = self._places[rank], self._places[self._rank]
        # This one must not kill itself: it has yet to tell the others.
        is_here = numbering == here and rank != self._rank
        ranks.give_up(
            rank,
            f"({numbering[0]}, process {process}) {what} for {self.minutes:g} minutes "
            "(--timeout_minutes)",
            process if is_here else None,
        )


def _numbering() -> tuple[str, int]:
    """Where a process's number means the same process: on a host, and within a container."""
    namespace = Path("/proc/self/ns/pid")
    return socket.gethostname(), namespace.stat().st_ino if namespace.exists() else 0


class _Line:
    """The messages between this rank and another one; one of the two is rank 0.

    Args:
        rank: The other one.
        beat: Says what to tell.
        group: Of all ranks.

    Attributes:
        heard: The progress of the other one.
        silent: Seconds since its last message.
        thread: Alive until one of the two leaves.
    """

    def __init__(self, rank: int, beat: Heartbeat, group: Any) -> None:
        self.rank, self.beat, self.group = rank, beat, group
        self.heard, self.silent = 0, 0.0
        self.thread = threading.Thread(target=self._run, daemon=True)
        self.thread.start()

    def _run(self) -> None:
        try:
            while self._exchange():
                pass
        except RuntimeError:  # gloo's, as soon as the other process is gone
            ranks.give_up(self.rank)

    def _exchange(self) -> bool:
        """Send and receive one message; return whether there will be another one."""
        if self.rank != 0:
            return self._hear() and self._say()
        self.beat.pause()
        return self._say() and self._hear()

    def _say(self) -> bool:
        value = self.beat.say()
        torch.distributed.send(torch.tensor(value), self.rank, self.group)
        return value >= 0

    def _hear(self) -> bool:
        value = torch.zeros((), dtype=torch.int64)
        torch.distributed.recv(value, self.rank, self.group)
        heard = int(value)
        if heard == _GIVES_UP:
            ranks.give_up(None)
        elif heard >= 0:
            self.heard, self.silent = heard, 0.0
        return heard >= 0
