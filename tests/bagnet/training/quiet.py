"""A Trainer without the parts that a test does not need, and a small classifier to train."""

from __future__ import annotations

from typing import Any

import torch
from pytorch_lightning import Trainer
from pytorch_lightning.loggers import Logger
from torch.utils.data import DataLoader

from bagnet.training.classifier import BagNetClassifier

CLASSES = 7


class Rows(Logger):
    """Keeps what is logged, as (step, metrics)."""

    name = version = "rows"

    def __init__(self) -> None:
        super().__init__()
        self.rows: list[tuple[int, dict[str, float]]] = []

    def log_hyperparams(self, *args: Any, **kwargs: Any) -> None: ...

    def log_metrics(self, metrics: dict[str, float], step: int | None = None) -> None:
        self.rows.append((step, metrics))


def quiet_trainer(**options: Any) -> Trainer:
    defaults = {
        "accelerator": "cpu",
        "logger": False,
        "enable_checkpointing": False,
        "enable_progress_bar": False,
        "enable_model_summary": False,
    }
    return Trainer(**{**defaults, **options})


def batches(*sizes: int) -> list[tuple[torch.Tensor, torch.Tensor, torch.Tensor]]:
    generator = torch.Generator().manual_seed(0)
    return [
        (
            torch.randint(0, 256, (size, 3, 20, 24), dtype=torch.uint8, generator=generator),
            torch.randint(0, CLASSES, (size,), generator=generator),
            torch.arange(size),
        )
        for size in sizes
    ]


def classifier(**options: object) -> BagNetClassifier:
    torch.manual_seed(0)
    return BagNetClassifier("bagnet9", num_classes=CLASSES, width=4, **options)


def loader(*sizes: int) -> DataLoader:
    return DataLoader(batches(*sizes), batch_size=None)
