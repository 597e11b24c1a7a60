"""Other ways to sum the patches' evidence up, evaluated on the forward pass of a validation."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, cast

from pytorch_lightning import Callback, LightningModule, Trainer
from torch import Tensor, nn
from torchmetrics.classification import MulticlassAccuracy

from bagnet.classifier import UNREADABLE
from bagnet.evidence.aggregation import parse
from bagnet.evidence.maps import require_bagnet


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
        classes = model.fc.out_features
        self._accuracies = {
            name: [
                MulticlassAccuracy(
                    classes,
                    top_k=min(k, classes),
                    average="micro",
                    ignore_index=UNREADABLE,
                    validate_args=False,
                ).to(pl_module.device)
                for k in (1, 5)
            ]
            for name in self.ways
        }
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
            logits = aggregate(evidence)
            for accuracy in self._accuracies[name]:
                accuracy.update(logits, batch[1])

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._hook.remove()
        for name, (top1, top5) in self._accuracies.items():
            self.figures[name] = float(top1.compute()), float(top5.compute())

    def _keep(self, module: nn.Module, inputs: Any, features: Tensor) -> None:
        self._features = features
