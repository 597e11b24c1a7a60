"""All ranks must have the same code, the same data and the same checkpoint."""

from __future__ import annotations

import socket
from typing import Any

import pytorch_lightning
import torch
from pytorch_lightning import Callback, LightningModule, Trainer

from bagnet.run.provenance import code_digest


class SameEverywhere(Callback):
    """Compares what the ranks see before the first step, and names the nodes that differ.

    Otherwise a folder that one node mounts from elsewhere, or a checkout that changed while a job started, trains
    something that nobody meant, or hangs.
    """

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        data: Any = trainer.datamodule  # type: ignore[attr-defined]
        facts = {
            "code": code_digest(),
            "torch": torch.__version__,
            "pytorch-lightning": pytorch_lightning.__version__,
        }
        if data is not None:
            facts["validation data"] = data.val_manifest.digest
            if stage == "fit":
                facts["training data"] = data.train_manifest.digest
        require_same(trainer, facts)

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        require_same(trainer, {"checkpoint, by its step": str(trainer.global_step)})


def require_same(trainer: Trainer, facts: dict[str, str]) -> None:
    """Compare facts over all ranks.

    Raises:
        ValueError: On all of them, where a rank has another value than rank 0.
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
                    f"rank {rank} on {host} has other {name} than rank 0 on {first_host} ({value} and {first[name]}); "
                    "let all nodes see the same folders, and start again"
                )
