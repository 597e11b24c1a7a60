"""Other ways to sum the patches' evidence up, evaluated on the forward pass of a validation."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, cast

from pytorch_lightning import Callback, LightningModule, Trainer
from torch import Tensor, nn

from bagnet.evidence.aggregation import parse
from bagnet.evidence.maps import require_bagnet
from bagnet.training.metrics import ClassificationMetrics


class Aggregations(Callback):
    """Top-1 and top-5 of each aggregation, over all ranks, from the features that the network has computed anyway.

    Args:
        names: As ``bagnet.evidence.aggregation.parse`` takes them, such as ``median`` or ``clamp:0``.

    Attributes:
        figures: By name, top-1 and top-5 of the last validation, 0 to 1.

    Raises:
        ValueError: There is no such aggregation, or, when it begins, the network is no BagNet.
    """

    def __init__(self, names: Sequence[str]) -> None:
        self.ways = {name: parse(name) for name in names}
        self.figures: dict[str, tuple[float, float]] = {}

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        model = require_bagnet(cast(nn.Module, pl_module.model))
        self._metrics = {name: ClassificationMetrics().to(pl_module.device) for name in self.ways}
        self._hook = model.layer4.register_forward_hook(self._keep)

    def on_validation_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        model = require_bagnet(cast(nn.Module, pl_module.model))
        evidence = model.fc(self._features.permute(0, 2, 3, 1)).permute(0, 3, 1, 2).float()
        for name, aggregate in self.ways.items():
            self._metrics[name].update(aggregate(evidence), batch[1])

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._hook.remove()
        for name, metrics in self._metrics.items():
            figures = metrics.compute()
            self.figures[name] = float(figures["top1"]), float(figures["top5"])

    def _keep(self, module: nn.Module, inputs: Any, features: Tensor) -> None:
        self._features = features
