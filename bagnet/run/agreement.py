"""How ranks agree: on code, data and checkpoint at the start, and later on what to do next."""

from __future__ import annotations

import socket
from importlib.metadata import version
from typing import Any

import torch
from pytorch_lightning import Callback, LightningModule, Trainer

from bagnet.run.provenance import code_digest


class HostGroup:
    """Lets all ranks agree on a number without waiting for their GPUs: a gloo group of the hosts.

    Create it on all ranks at the same time, after the ranks have met.

    Args:
        trainer: Its ranks; a single one has nobody to ask.
    """

    def __init__(self, trainer: Trainer) -> None:
        self._group: Any = None
        if trainer.world_size > 1:
            timeout = getattr(trainer.strategy, "timeout", None)
            self._group = torch.distributed.new_group(backend="gloo", timeout=timeout)

    def highest(self, value: int) -> int:
        """The largest value of all ranks. They wait for each other."""
        if self._group is None:
            return value
        highest = torch.tensor(value)
        torch.distributed.all_reduce(highest, torch.distributed.ReduceOp.MAX, self._group)
        return int(highest)

    def gather(self, value: Any) -> list[Any]:
        """The values of all ranks, by rank. They wait for each other."""
        everywhere = [value]
        if self._group is not None:
            everywhere *= torch.distributed.get_world_size()
            torch.distributed.all_gather_object(everywhere, value, self._group)
        return everywhere


def share_buffers(module: torch.nn.Module) -> None:
    """Give all ranks rank 0's buffers, such as the statistics of BatchNorm."""
    for buffer in module.buffers():
        torch.distributed.broadcast(buffer, src=0)


class SameEverywhere(Callback):
    """Compares what the ranks see before the first step, and names the nodes that differ.

    Without this check, a node that mounts another folder, or a checkout that changes while a job
    starts, would train the wrong thing or hang.
    """

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        data: Any = trainer.datamodule  # type: ignore[attr-defined]
        facts = {
            "code": code_digest(),
            "torch": torch.__version__,
            "pytorch-lightning": version("pytorch-lightning"),
        }
        if data is not None:
            facts["validation data"] = data.val_manifest.digest
            if stage == "fit":
                facts["training data"] = data.train_manifest.digest
        require_same(trainer, facts)

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        require_same(trainer, {"checkpoint step": str(trainer.global_step)})


def require_same(trainer: Trainer, facts: dict[str, str]) -> None:
    """Compare facts across all ranks.

    Raises:
        ValueError: On all ranks, if one has another value than rank 0.
    """
    mine = (socket.gethostname(), facts)
    everywhere: list[Any] = [mine] * trainer.world_size
    if trainer.world_size > 1:
        torch.distributed.all_gather_object(everywhere, mine)
    first_host, first = everywhere[0]
    for rank, (host, others) in enumerate(everywhere):
        for name, value in others.items():
            if value != first[name]:
                raise ValueError(
                    f"{name} differs: {value} for rank {rank} on {host}, {first[name]} for rank 0 "
                    f"on {first_host}; make all nodes see the same folders, then start again"
                )
