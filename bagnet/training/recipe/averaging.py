"""Averages of the weights over the training, which usually classify better than the last ones."""

from __future__ import annotations

import torch
from pytorch_lightning import LightningModule, Trainer
from pytorch_lightning.callbacks import WeightAveraging
from torch import Tensor
from torch.optim.swa_utils import get_ema_multi_avg_fn

Tensors = tuple[Tensor, ...] | list[Tensor]


class EMA(WeightAveraging):
    """An exponential moving average of the weights and of BatchNorm's statistics.

    It starts as the weights after the first step, and moves towards the weights after each further
    one. Validations, pictures of evidence and the checkpoints' `state_dict` have the average; the
    weights that the training continues from are beside it in a checkpoint.

    Lightning's `EMAWeightAveraging` averages each weight with three kernels of its own, and keeps
    the average on the CPU if that is where the network was built. This averages them all at once,
    on the device of the training. It is updated from the first step on, because a validation before
    the first update would see the initial weights (Lightning's issue 21724).

    Args:
        decay: How much of the average each step keeps, 0 to 1: 0.999 averages over about 1,000
            steps.
    """

    def __init__(self, decay: float) -> None:
        average = get_ema_multi_avg_fn(decay)

        def update(averages: Tensors, values: Tensors, count: Tensor | int) -> None:
            """Whole numbers, such as counts and the metrics' constants, stay what they are."""
            if averages[0].is_floating_point():
                average(averages, values, count)
            else:
                for old, new in zip(averages, values, strict=True):
                    old.copy_(new)

        super().__init__(multi_avg_fn=update)

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        pl_module.to(trainer.strategy.root_device)  # where the copy is made, too
        super().setup(trainer, pl_module, stage)
        if self._average_model is not None:
            # torch compares this count with zero in each update, and would wait for the GPU.
            count = self._average_model.n_averaged
            self._average_model.n_averaged = torch.zeros_like(count, device="cpu")
