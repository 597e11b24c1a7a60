"""A network with its optimizer: the learning rate of each step."""

from __future__ import annotations

import torch
from pytorch_lightning.utilities import rank_zero_warn
from torch import Tensor

from bagnet.training.labels import doubt
from bagnet.training.network_module import NetworkModule
from bagnet.training.recipe.optim import build_optimizer, parameter_groups
from bagnet.training.recipe.schedule import (
    epochs_done,
    epochs_of,
    learning_rate_factor,
    require_length,
    scaled_learning_rate,
)
from datamodules.common.batch import Batch


class OptimizedModule(NetworkModule):
    """The part of `BagNetClassifier` that sets the learning rate; its settings are there.

    Attributes:
        latest_loss: Loss of the latest training batch; unset before the first one.
    """

    latest_loss: Tensor
    _first_batch: int | None = None
    """Images in the first batch, over all devices."""

    @property
    def global_batch(self) -> int:
        """Images per optimizer step, over all ranks and accumulated batches; 0 if not known yet."""
        batch = self.hparams["batch_size"] or self._first_batch or 0
        return int(batch) * self.trainer.accumulate_grad_batches

    @property
    def lr(self) -> float:
        """Learning rate for the global batch, by the name that Lightning's finder reads and sets.

        `learning_rate` is for 256 images, and setting this sets it.
        """
        return scaled_learning_rate(self.hparams["learning_rate"], self.global_batch)

    @lr.setter
    def lr(self, value: float) -> None:
        self.hparams["learning_rate"] = value / scaled_learning_rate(1.0, self.global_batch)

    def configure_optimizers(self) -> torch.optim.Optimizer:
        hparams, trainer = self.hparams, self.trainer
        # Lightning's mixed precision cannot clip gradients with a fused optimizer.
        fused = trainer.strategy.root_device.type == "cuda" and not trainer.gradient_clip_val
        return build_optimizer(
            hparams["optimizer"],
            parameter_groups(
                self.model,
                hparams["weight_decay"],
                hparams["decay_norm"],
                hparams["backbone_rate"],
            ),
            lr=self.lr,
            momentum=hparams["momentum"],
            fused=fused,
            arguments=hparams["optimizer_args"] or {},
        )

    def on_fit_start(self) -> None:
        self._first_batch = None

    def _meet(self, labels: Tensor) -> None:
        """Learn from the first batch how many images a batch has, and tell what follows."""
        self._first_batch = len(labels) * self.trainer.world_size
        rate, batch = self.hparams["learning_rate"], self.global_batch
        self.print(f"learning rate {self.lr:.6g} = {rate:g} x global batch {batch} / 256")
        if question := doubt(labels, self.hparams["num_classes"]):
            rank_zero_warn(question)

    def on_train_start(self) -> None:
        hparams = self.hparams
        require_length(self.trainer, hparams["schedule"], hparams["warmup_epochs"])

    def on_train_batch_start(self, batch: Batch, batch_idx: int) -> None:
        """Set this step's learning rate, a function of the step alone: resuming needs no state."""
        if self._first_batch is None:
            self._meet(batch[1])
        trainer, hparams = self.trainer, self.hparams
        if trainer.lr_scheduler_configs:
            return  # Lightning's finder of learning rates sets it
        factor = learning_rate_factor(
            epochs_done(trainer),
            schedule=hparams["schedule"],
            epochs=epochs_of(trainer),
            warmup_epochs=hparams["warmup_epochs"],
            decay_every=hparams["decay_every"],
            floor=hparams["floor"],
        )
        for group in trainer.optimizers[0].param_groups:
            group["lr"] = factor * self.lr * group.get("lr_scale", 1.0)

    def on_before_optimizer_step(self, optimizer: torch.optim.Optimizer) -> None:
        """Log the figures of a step, but only if the loggers will see it: that takes 0.5 ms."""
        every: int = self.trainer.log_every_n_steps  # type: ignore[attr-defined]
        if every and (self.trainer.global_step + 1) % every == 0:
            self.log("train/loss_step", self.latest_loss, on_step=True, on_epoch=False)
            rate = max(group["lr"] for group in optimizer.param_groups)
            self.log("learning_rate", rate, on_step=True, on_epoch=False)
