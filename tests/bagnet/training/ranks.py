"""Trains on two ranks of Lightning's own launcher, and writes what each of them saw.

    python -m tests.bagnet.training.ranks OUT [compiled|thawed]

OUT/RANK.pt has the weights after the training, the buffers seen by the last validation batch, and
how often each operation of interest ran in one step.
"""

from __future__ import annotations

import sys
from collections import Counter
from pathlib import Path
from typing import Any

import torch
from pytorch_lightning import Callback, LightningModule, Trainer
from torch.profiler import ProfilerActivity, profile
from torch.utils.data import DataLoader

from bagnet.run.checkpoints import LastCheckpoint
from bagnet.run.folder import Run
from bagnet.run.lease import Lease
from bagnet.training.command_line.trainer import prepare_devices
from bagnet.training.recipe.freezing import Freezing
from tests.bagnet.training.quiet import batches, classifier, quiet_trainer

STEPS = 12
WATCHED = 5
"""The step in which operations are counted: no rank asks the others whether to stop in it."""


class Watch(Callback):
    def __init__(self) -> None:
        self.buffers: dict[str, torch.Tensor] = {}
        self.operations: Counter[str] = Counter()
        self.profile = profile(activities=[ProfilerActivity.CPU])

    def on_train_batch_start(self, trainer: Trainer, *arguments: Any) -> None:
        if trainer.global_step == WATCHED:
            self.profile.start()
        elif trainer.global_step == WATCHED + 1:
            self.profile.stop()
            for event in self.profile.key_averages():
                self.operations[event.key] = event.count

    def on_validation_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, *arguments: Any
    ) -> None:
        self.buffers = {name: each.clone() for name, each in pl_module.named_buffers()}


def main(out: Path, kind: str) -> None:
    torch.set_num_threads(1)
    # Not torch's own backend, which needs minutes for this on a CPU.
    compile_ = torch.compile
    torch.compile = lambda function, mode, **options: compile_(
        function, backend="aot_eager", **options
    )
    config = {"accelerator": "cpu", "devices": 2, "num_nodes": 1, "precision": None}
    config |= {"accumulate_grad_batches": 1, "benchmark": None, "deterministic": None}
    config |= {"strategy": "ddp"}
    watch, run = Watch(), Run("ranks", out)
    callbacks = [watch, LastCheckpoint(run, Lease(run.starts))]
    callbacks += [Freezing(1)] * (kind == "thawed")
    trainer = quiet_trainer(
        strategy="ddp",
        callbacks=callbacks,
        max_epochs=2 if kind == "thawed" else 1,
        num_sanity_val_steps=0,
        enable_checkpointing=True,
        use_distributed_sampler=False,
        log_every_n_steps=100,
        **prepare_devices(config),
    )
    module = classifier(compile=kind == "compiled")
    # Each rank has batches of its own.
    mine = batches(*[4] * 2 * STEPS)[trainer.local_rank :: 2]
    trainer.fit(module, DataLoader(mine, batch_size=None), DataLoader(mine[:2], batch_size=None))
    content = {
        "weights": dict(module.named_parameters()),
        "buffers": watch.buffers,
        "operations": dict(watch.operations),
    }
    torch.save(content, out / f"{trainer.global_rank}.pt")


if __name__ == "__main__":
    main(Path(sys.argv[1]), "".join(sys.argv[2:]))
