"""Fine-tuning with frozen layers: the classifier alone is trained, at first or throughout."""

from __future__ import annotations

from typing import cast

from pytorch_lightning import Callback, LightningModule, Trainer
from pytorch_lightning.strategies import DDPStrategy
from torch import nn

from bagnet.model.registry import classifier_of


class Freezing(Callback):
    """Trains only the last layer of the network for some epochs, then all of it.

    Frozen layers keep their weights and BatchNorm's statistics to the bit. They are a function of
    the epoch, so resuming needs no state. Lightning's `BaseFinetuning` adds layers to the optimizer
    when it thaws them, but DDP would go on without averaging their gradients over the ranks.

    Args:
        epochs: Epochs in which the last layer is trained alone; infinity for all of them.
    """

    def __init__(self, epochs: float) -> None:
        self.epochs = epochs
        self._frozen = False

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        if stage == "fit":  # before DDP looks which weights have gradients
            self._frozen = True
            network(pl_module).requires_grad_(False)
            classifier_of(network(pl_module)).requires_grad_(True)

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._update(trainer, pl_module)  # Lightning starts no epoch if it resumes within one

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._update(trainer, pl_module)

    def _update(self, trainer: Trainer, pl_module: LightningModule) -> None:
        frozen = trainer.current_epoch < self.epochs
        network(pl_module).train(not frozen)
        if self._frozen and not frozen:
            self._frozen = False
            network(pl_module).requires_grad_(True)
            if isinstance(trainer.strategy, DDPStrategy):
                trainer.strategy.model = pl_module
                trainer.strategy.configure_ddp()


def network(pl_module: LightningModule) -> nn.Module:
    """The network that a module of ours trains."""
    return cast(nn.Module, pl_module.model)
