"""Accuracy of other aggregations of the evidence, measured during an ordinary validation."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from pytorch_lightning import Callback, LightningModule, Trainer
from torch import Tensor, nn

from bagnet.evidence.aggregation import parse
from bagnet.evidence.maps import require_bagnet
from bagnet.training.metrics import among, evaluation_metrics


class Aggregations(Callback):
    """Computes the figures of each aggregation over all ranks, without a second forward pass.

    Args:
        names: As `bagnet.evidence.aggregation.parse` takes them, such as `median` or `clamp:0`.

    Attributes:
        figures: For each name, the figures of the last validation, as `val/top1`.

    Raises:
        ValueError: A name is unknown, or, when a validation starts, the network is not a BagNet.
    """

    def __init__(self, names: Sequence[str]) -> None:
        self.by_name = {name: parse(name) for name in names}
        self.figures: dict[str, dict[str, Tensor]] = {}

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        module: Any = pl_module  # BagNetClassifier
        self._model = require_bagnet(module.model)
        self._metrics = {
            name: evaluation_metrics(module.num_classes).to(pl_module.device)
            for name in self.by_name
        }
        self._hook = self._model.layer4.register_forward_hook(self._keep)

    def on_validation_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        module: Any = pl_module
        evidence = self._model.patch_logits(self._features).float()
        for name, aggregate in self.by_name.items():
            self._metrics[name].update(among(aggregate(evidence), module.present), batch[1])

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._hook.remove()
        for name, metrics in self._metrics.items():
            figures = metrics.compute()
            del figures["loss"]  # what is no mean of logits has no likelihood
            self.figures[name] = {f"val/{figure}": value for figure, value in figures.items()}

    def _keep(self, module: nn.Module, inputs: Any, features: Tensor) -> None:
        self._features = features
