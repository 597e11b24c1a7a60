"""The LightningModule: steps, loss and metrics of an image classifier."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from typing import Any, Literal, cast

import torch
from pytorch_lightning import LightningModule
from torch import Tensor, nn
from torch.nn import functional as F

from bagnet import kernels as fused_kernels
from bagnet.model.registry import build_model, normalize
from bagnet.model.weights import load_model
from bagnet.training.metrics import ClassificationMetrics
from bagnet.training.optim import (
    Schedule,
    learning_rate_factor,
    parameter_groups,
    scaled_learning_rate,
)
from datamodules.common.batch import UNREADABLE, Batch


class BagNetClassifier(LightningModule):
    """Trains and evaluates one of our networks; the defaults are the paper's recipe (its appendix, training details).

    A batch is ``(images, labels, sample_ids)``: uint8 (B, 3, H, W), int64 (B,), int64 (B,). A place whose sample could not
    be read has the label -1: neither the loss nor the metrics see it.

    Args:
        name: The network: bagnet9, bagnet17, bagnet33, or a torchvision network of the paper (``bagnet/model/registry.py``).
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
        compile: Whether to compile the network, from the pixels on (torch.compile).
        kernels: "fused" runs a BagNet's blocks on kernels of our own (docs/kernels.md), "plain" everything on torch's;
            "auto" is fused where a GPU can and the network is not compiled.

    Raises:
        ValueError: compile with fused kernels.
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
        kernels: Literal["auto", "plain", "fused"] = "plain",
    ) -> None:
        super().__init__()
        if compile and kernels == "fused":
            raise ValueError(
                "--model.compile with --model.kernels fused: torch.compile cannot look into them; choose one of both"
            )
        # For the checkpoint; the loggers get the whole configuration from the command line.
        self.save_hyperparameters(ignore=["weights", "compile", "kernels"], logger=False)
        self.model = (
            build_model(name, num_classes=num_classes, width=width)
            if weights is None
            else load_model(weights, name=name, num_classes=num_classes, width=width).train()
        )
        self.compiles, self.kernels = compile, kernels
        self.train_metrics, self.val_metrics, self.test_metrics = (
            ClassificationMetrics() for _ in range(3)
        )

    def setup(self, stage: str) -> None:
        """Lay the weights out as the device likes them best; ``forward`` does so with the images."""
        device = self.trainer.strategy.root_device
        self.model.to(memory_format=memory_format(device, self.hparams["width"]))
        if self.kernels == "fused" or (self.kernels == "auto" and self._can_fuse(device)):
            fused_kernels.fuse(self.model, device)

    def _can_fuse(self, device: torch.device) -> bool:
        """On a GPU alone, even where the kernels could be interpreted; and they know no float64."""
        possible = (
            device.type == "cuda" and not self.compiles and self.trainer.precision[:2] != "64"
        )
        return possible and fused_kernels.obstacle(self.model, device) is None

    def forward(self, images: Tensor) -> Tensor:
        """Logits (B, classes) of uint8 images (B, 3, H, W)."""
        network = compiled() if self.compiles else logits
        return network(self.model, images, memory_format(images.device, self.hparams["width"]))

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        loss = self._step(batch, self.train_metrics)
        self.log("train/loss_step", loss, prog_bar=True, on_step=True, on_epoch=False)
        return loss

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        self._step(batch, self.val_metrics)

    def test_step(self, batch: Batch, batch_idx: int) -> None:
        self._step(batch, self.test_metrics)

    def _step(self, batch: Batch, metrics: ClassificationMetrics) -> Tensor:
        """The mean loss of the batch, which the metrics count."""
        images, labels, _ = batch
        logits = self(images).float()
        metrics.update(logits.detach(), labels)
        losses = F.cross_entropy(logits, labels, ignore_index=UNREADABLE, reduction="none")
        return losses.sum() / (labels != UNREADABLE).sum().clamp(min=1)

    # Logged once an epoch: to hand a metric to self.log in each step costs more than a small network does.
    def on_train_epoch_end(self) -> None:
        self._log_metrics("train", self.train_metrics)

    def on_validation_epoch_end(self) -> None:
        self._log_metrics("val", self.val_metrics)

    def on_test_epoch_end(self) -> None:
        self._log_metrics("test", self.test_metrics)

    def _log_metrics(self, stage: str, metrics: ClassificationMetrics) -> None:
        """Log the means over all samples of all ranks since the last time."""
        for name, value in metrics.compute().items():
            self.log(f"{stage}/{name}", value, prog_bar=stage != "train")
        metrics.reset()

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Save what the epoch has counted so far, over all ranks, so that its figures are whole after a resume."""
        trainer = self.trainer
        if trainer.training and trainer.global_step % self.steps_per_epoch:
            with self.train_metrics.sync_context():
                states = cast(dict[str, Tensor], self.train_metrics.metric_state)
                checkpoint["train_metrics"] = {
                    name: value.cpu().clone() for name, value in states.items()
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
                    f"{self.hparams[name]}; give this run another name (--name), or the same settings, or start from "
                    "the checkpoint's weights (--model.weights FILE)"
                )
        if self.global_rank == 0:
            for name, value in checkpoint.get("train_metrics", {}).items():
                setattr(self.train_metrics, name, value.to(self.device))

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
            fused=self._fuses_the_optimizer() or None,  # torch's choice elsewhere
        )

    def _fuses_the_optimizer(self) -> bool:
        """One kernel for all weights on a GPU; but Lightning's mixed precision cannot clip gradients with it."""
        trainer = self.trainer
        return trainer.strategy.root_device.type == "cuda" and not trainer.gradient_clip_val

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
        if (trainer.global_step + 1) % trainer.log_every_n_steps == 0:  # type: ignore[attr-defined]
            self.log("learning_rate", learning_rate, on_step=True, on_epoch=False)


def logits(model: nn.Module, images: Tensor, layout: torch.memory_format) -> Tensor:
    """Logits (B, classes) of uint8 images (B, 3, H, W), which the network sees normalised and in ``layout``."""
    return model(normalize(images).contiguous(memory_format=layout))


@functools.cache
def compiled(
    mode: str = "default",
) -> Callable[[nn.Module, Tensor, torch.memory_format], Tensor]:
    """``logits``, compiled in a mode of torch.compile; kept by no module, so that all of them pickle.

    Outside, the normalisation would write the images five times, in float32, before the first convolution reads them.
    """
    return torch.compile(logits, mode=mode)


def memory_format(device: torch.device, width: int) -> torch.memory_format:
    """The fastest layout that is safe: channels last, but for very narrow networks on a CPU.

    There, oneDNN's backward pass corrupts memory in torch 2.15: with widths of 4, 8 and 12 training crashed sooner or
    later, with multiples of 16, which fill its vectors, it never did.
    """
    is_safe = device.type != "cpu" or width % 16 == 0
    return torch.channels_last if is_safe else torch.contiguous_format
