"""The LightningModule: steps, loss and metrics of an image classifier."""

from __future__ import annotations

import math
from functools import partial
from typing import Any, cast

import torch
from pytorch_lightning import LightningModule
from torch import Tensor, nn
from torch.nn import functional as F
from torchmetrics import MeanMetric, Metric
from torchmetrics.classification import MulticlassAccuracy

from bagnet.checkpoints import load_model
from bagnet.models import build_model, normalize
from bagnet.optim import Schedule, learning_rate_factor, parameter_groups, scaled_learning_rate

Batch = tuple[Tensor, Tensor, Tensor]

METRICS = ("loss", "top1", "top5")

UNREADABLE = -1
"""The label of a place in a batch whose sample could not be read."""


class BagNetClassifier(LightningModule):
    """Trains and evaluates one of our networks; the defaults are the paper's recipe (section 3.1 and its appendix).

    A batch is ``(images, labels, sample_ids)``: uint8 (B, 3, H, W), int64 (B,), int64 (B,). A place whose sample could not
    be read has the label -1: neither the loss nor the metrics see it.

    Args:
        name: The network: bagnet9, bagnet17, bagnet33, or a torchvision network of the paper (``bagnet/models.py``).
        num_classes: Classes to tell apart; taken from the data set by train.py.
        width: Channels of the first convolution; 64 in the originals, less makes a narrow network.
        learning_rate: For a global batch of 256; scaled linearly with the global batch.
        momentum: Of SGD.
        weight_decay: Of SGD.
        decay_norm: Whether biases and normalisation layers are decayed too, as the paper's recipe does.
        schedule: "step" divides the learning rate by ten every decay_every epochs, "cosine" lets it fall to zero.
        warmup_epochs: Epochs over which the learning rate rises linearly from zero.
        decay_every: Epochs between two steps of the "step" schedule.
        batch_size: The global batch, for the scaling; taken from the data by train.py.
        weights: A file of weights to start from: ours, the authors' .pth.tar, or safetensors.
        compile: Whether to compile the network (torch.compile).
    """

    def __init__(
        self,
        name: str = "bagnet33",
        num_classes: int = 1000,
        width: int = 64,
        learning_rate: float = 0.01,
        momentum: float = 0.9,
        weight_decay: float = 1e-4,
        decay_norm: bool = True,
        schedule: Schedule = "step",
        warmup_epochs: float = 0.0,
        decay_every: int = 30,
        batch_size: int = 256,
        weights: str | None = None,
        compile: bool = False,
    ) -> None:
        super().__init__()
        # For the checkpoint; the loggers get the whole configuration from the command line.
        self.save_hyperparameters(ignore=["weights", "compile"], logger=False)
        self.model = (
            build_model(name, num_classes=num_classes, width=width)
            if weights is None
            else load_model(weights, name=name, num_classes=num_classes, width=width).train()
        )
        if compile:
            self.model.compile()
        # Flat, by the name under which each is logged: "val/top1".
        self.metrics = nn.ModuleDict(
            {
                f"{stage}/{name}": metric
                for stage in ("train", "val", "test")
                for name, metric in _metrics(num_classes).items()
            }
        )

    def setup(self, stage: str) -> None:
        """Lay the weights out as the device likes them best; ``forward`` does so with the images."""
        device = self.trainer.strategy.root_device
        self.model.to(memory_format=memory_format(device, self.hparams["width"]))

    def forward(self, images: Tensor) -> Tensor:
        """Logits (B, classes) of uint8 images (B, 3, H, W)."""
        layout = memory_format(images.device, self.hparams["width"])
        return self.model(normalize(images).contiguous(memory_format=layout))

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        loss = self._step(batch, "train")
        self.log("train/loss_step", loss, prog_bar=True, on_step=True, on_epoch=False)
        return loss

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        self._step(batch, "val")

    def test_step(self, batch: Batch, batch_idx: int) -> None:
        self._step(batch, "test")

    def _step(self, batch: Batch, stage: str) -> Tensor:
        """The mean loss of the batch; counts it and the hits in the metrics of ``stage``."""
        images, labels, _ = batch
        logits = self(images).float()
        losses = F.cross_entropy(logits, labels, ignore_index=UNREADABLE, reduction="none")
        counted = labels != UNREADABLE
        hits = (logits.detach(), labels)
        for name, values in (("loss", (losses.detach(), counted)), ("top1", hits), ("top5", hits)):
            metric = cast(Metric, self.metrics[f"{stage}/{name}"])
            metric.update(*values)
            in_bar = stage != "train"
            self.log(f"{stage}/{name}", metric, on_step=False, on_epoch=True, prog_bar=in_bar)
        return losses.sum() / counted.sum().clamp(min=1)

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Save what the epoch has counted so far, over all ranks, so that its figures are whole after a resume."""
        trainer = self.trainer
        if trainer.training and trainer.global_step % self.steps_per_epoch:
            checkpoint["train_metrics"] = {
                name: _summed(cast(Metric, self.metrics[f"train/{name}"])) for name in METRICS
            }

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Count on from there: on rank 0, as the ranks' counts are added up at the end.

        Raises:
            ValueError: The checkpoint belongs to a run with other settings.
        """
        for name, value in checkpoint["hyper_parameters"].items():
            if name in self.hparams and self.hparams[name] != value:
                raise ValueError(
                    f"cannot resume: the checkpoint belongs to a run with {name} {value}, and this one has "
                    f"{self.hparams[name]}; give this run another name (--run), or the same settings, or start from "
                    "the checkpoint's weights (--model.weights FILE)"
                )
        for name, states in checkpoint.get("train_metrics", {}).items():
            if self.global_rank == 0:
                metric = self.metrics[f"train/{name}"]
                for state, value in states.items():
                    setattr(metric, state, value.to(self.device))

    @property
    def steps_per_epoch(self) -> int:
        """Optimizer steps."""
        return math.ceil(self.trainer.num_training_batches / self.trainer.accumulate_grad_batches)

    @property
    def global_batch(self) -> int:
        """Images of one optimizer step, over all ranks and accumulated batches."""
        return self.hparams["batch_size"] * self.trainer.accumulate_grad_batches

    def configure_optimizers(self) -> torch.optim.Optimizer:
        hparams = self.hparams
        return torch.optim.SGD(
            parameter_groups(self.model, hparams["weight_decay"], hparams["decay_norm"]),
            lr=scaled_learning_rate(hparams["learning_rate"], self.global_batch),
            momentum=hparams["momentum"],
        )

    def on_fit_start(self) -> None:
        learning_rate = self.hparams["learning_rate"]
        scaled = scaled_learning_rate(learning_rate, self.global_batch)
        self.print(
            f"learning rate {scaled:.6g} = {learning_rate:g} x global batch {self.global_batch} / 256"
        )

    def on_train_batch_start(self, batch: Batch, batch_idx: int) -> None:
        """Set the learning rate of this step: a function of the step alone, so a resumed run needs no state for it."""
        trainer, hparams = self.trainer, self.hparams
        factor = learning_rate_factor(
            trainer.global_step / self.steps_per_epoch,
            schedule=hparams["schedule"],
            max_epochs=trainer.max_epochs or 1,
            warmup_epochs=hparams["warmup_epochs"],
            decay_every=hparams["decay_every"],
        )
        learning_rate = factor * scaled_learning_rate(hparams["learning_rate"], self.global_batch)
        for group in trainer.optimizers[0].param_groups:
            group["lr"] = learning_rate
        self.log("learning_rate", learning_rate, on_step=True, on_epoch=False)


def memory_format(device: torch.device, width: int) -> torch.memory_format:
    """The fastest layout that is safe: channels last, but for very narrow networks on a CPU.

    There, oneDNN's backward pass corrupts memory in torch 2.15: with widths of 4, 8 and 12 training crashed sooner or
    later, with multiples of 16, which fill its vectors, it never did.
    """
    is_safe = device.type != "cpu" or width % 16 == 0
    return torch.channels_last if is_safe else torch.contiguous_format


def _summed(metric: Metric) -> dict[str, Tensor]:
    """The states of a metric, summed over all ranks."""
    with metric.sync_context():
        return {
            name: cast(Tensor, value).cpu().clone() for name, value in metric.metric_state.items()
        }


def _metrics(num_classes: int) -> dict[str, Metric]:
    # float64: a mean over 50,000 losses must not depend on how many ranks shared the sum.
    # validate_args would synchronise with the GPU in every step.
    accuracy = partial(
        MulticlassAccuracy,
        num_classes,
        average="micro",
        ignore_index=UNREADABLE,
        validate_args=False,
    )
    return {
        "loss": MeanMetric().set_dtype(torch.float64),
        "top1": accuracy(),
        "top5": accuracy(top_k=min(5, num_classes)),
    }
