"""The LightningModule: steps, loss and metrics of an image classifier."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, cast

import torch
from pytorch_lightning.utilities import rank_zero_warn
from torch import Tensor
from torch.nn import functional as F

from bagnet.run.agreement import share_buffers
from bagnet.training.forward import CompileMode
from bagnet.training.labels import doubt, require_labels
from bagnet.training.metrics import ClassificationMetrics
from bagnet.training.network_module import NetworkModule
from bagnet.training.optim import (
    Schedule,
    learning_rate_factor,
    parameter_groups,
    scaled_learning_rate,
    sgd,
)
from datamodules.common.batch import UNREADABLE, Batch
from datamodules.common.ranges import require_range

RANGES = {
    "learning_rate": (0,),
    "momentum": (0, 1),
    "weight_decay": (0,),
    "warmup_epochs": (0,),
    "decay_every": (1,),
    "batch_size": (1,),
}
"""The least and the largest value of settings."""


class BagNetClassifier(NetworkModule):
    """Trains and evaluates one of our networks. The defaults are the paper's recipe (its appendix).

    A batch is `(images, labels, sample_ids)`: uint8 (B, 3, H, W), int64 (B,), int64 (B,). A sample
    that could not be read has the label -1; neither the loss nor the metrics count it. Loaders of
    your own may leave the ids out, and give images that are normalised already, as floats.

    Args:
        name: The network: bagnet9, bagnet17, bagnet33, or one of the torchvision networks in
            `bagnet.model.registry`.
        num_classes: Number of classes; train.py takes it from the data.
        width: Channels of the first convolution, 64 in the paper; all layers scale with it.
        learning_rate: For a global batch of 256; it scales linearly with the global batch.
        momentum: Momentum of SGD.
        weight_decay: Weight decay of SGD.
        decay_norm: Whether biases and normalisation layers are decayed too, as in the paper.
        schedule: "step" divides the learning rate by ten every decay_every epochs, "cosine" lets it
            fall to zero at the end of the training (max_epochs or max_steps).
        warmup_epochs: Epochs over which the learning rate rises linearly from zero.
        decay_every: Epochs between two steps of the "step" schedule.
        batch_size: The global batch, which scales the learning rate; by default, that of the first
            batch over all devices. train.py takes it from the data.
        weights: File of the initial weights: a checkpoint, the authors' .pth.tar, or safetensors.
            If its classes are others than the data's, the classifier starts afresh, and this is
            said. A resumed training does not read it.
        compile: Whether to compile the network, including the normalisation of the pixels, or the
            mode of torch.compile: "reduce-overhead" adds CUDA graphs, "max-autotune" also searches
            for the fastest kernels, for many minutes.
        classes: Class ids by label, to be compared with those of `weights`; train.py takes them
            from the data.

    Raises:
        ValueError: A number is out of its range, or the weights do not fit the network.

    Attributes:
        latest_loss: Loss of the latest training batch; unset before the first one.
        notice: What the user should know about the weights; empty if nothing.

    Example:
        >>> classifier = BagNetClassifier("bagnet9", num_classes=10, width=4)
        >>> classifier(torch.zeros(2, 3, 32, 32, dtype=torch.uint8)).shape
        torch.Size([2, 10])
    """

    latest_loss: Tensor

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
        batch_size: int | None = None,
        weights: str | None = None,
        compile: bool | CompileMode = False,
        classes: Sequence[str] | None = None,
    ) -> None:
        super().__init__(name, num_classes, width, weights, compile, classes)
        # Only for the checkpoint: the command line gives the loggers the whole configuration.
        self.save_hyperparameters(ignore=["weights", "compile", "classes"], logger=False)
        for setting, limits in RANGES.items():
            if self.hparams[setting] is not None:
                require_range(setting, self.hparams[setting], *limits)
        self._first_batch: int | None = None  # images, over all devices
        self.train_metrics, self.val_metrics, self.test_metrics = (
            ClassificationMetrics() for _ in range(3)
        )

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        loss = self._step(batch, batch_idx, self.train_metrics)
        self.latest_loss = loss.detach()
        return loss

    def on_validation_start(self) -> None:
        if self.trainer.world_size > 1:
            share_buffers(self.model)  # DDP does not do it in each step (`ddp_settings`)

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        self._step(batch, batch_idx, self.val_metrics)

    def test_step(self, batch: Batch, batch_idx: int) -> None:
        self._step(batch, batch_idx, self.test_metrics)

    def _step(self, batch: Batch, batch_idx: int, metrics: ClassificationMetrics) -> Tensor:
        """Add a batch to the metrics, and return its mean loss."""
        images, labels = batch[:2]
        if batch_idx == 0 or labels.device.type == "cpu":  # else it would wait for the GPU
            require_labels(labels, self.num_classes)
        logits = self(images).float()
        metrics.update(logits.detach(), labels)
        loss = F.cross_entropy(logits, labels, ignore_index=UNREADABLE, reduction="sum")
        return loss / (labels != UNREADABLE).sum().clamp(min=1)

    # Logged once per epoch: calling self.log with a metric in each step takes longer than the step
    # of a small network.
    def on_train_epoch_end(self) -> None:
        self._log_metrics("train", self.train_metrics)

    def on_validation_epoch_end(self) -> None:
        self._log_metrics("val", self.val_metrics)

    def on_test_epoch_end(self) -> None:
        self._log_metrics("test", self.test_metrics)

    def _log_metrics(self, stage: str, metrics: ClassificationMetrics) -> None:
        """Log the means over all samples of all ranks since the last call."""
        for name, value in metrics.compute().items():
            # Every rank has this value already; their maximum keeps all its bits. Without
            # sync_dist, Lightning would warn that the ranks may differ.
            self.log(f"{stage}/{name}", value, stage != "train", sync_dist=True, reduce_fx="max")
        metrics.reset()

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """In the middle of an epoch, save its counts so far, over all ranks."""
        super().on_save_checkpoint(checkpoint)
        trainer = self.trainer
        if trainer.training and trainer.global_step % self.steps_per_epoch:
            with self.train_metrics.sync_context():
                states = cast(dict[str, Tensor], self.train_metrics.metric_state)
                checkpoint["train_metrics"] = {
                    name: value.cpu().clone() for name, value in states.items()
                }

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Restore the epoch's counts on rank 0 only, because the ranks' counts are summed later.

        Raises:
            ValueError: In a Trainer, if the checkpoint is from a run with other settings.
        """
        super().on_load_checkpoint(checkpoint)
        if not self.is_set_up:
            return  # `load_from_checkpoint`, which may be given other settings
        for name, value in checkpoint["hyper_parameters"].items():
            if name in self.hparams and self.hparams[name] != value:
                raise ValueError(
                    f"cannot resume: the checkpoint is from a run with {name} {value}, and this "
                    f"one has {self.hparams[name]}; use the same settings, or another --name, or "
                    "start from the checkpoint's weights (--model.weights FILE)"
                )
        if self.global_rank == 0:
            for name, value in checkpoint.get("train_metrics", {}).items():
                setattr(self.train_metrics, name, value.to(self.device))

    @property
    def steps_per_epoch(self) -> float:
        """Optimizer steps per epoch; infinite if the loader has no length."""
        batches = self.trainer.num_training_batches / self.trainer.accumulate_grad_batches
        return batches if math.isinf(batches) else math.ceil(batches)

    @property
    def epochs(self) -> float:
        """Length of the training, by the first limit that it reaches; infinite if it has none."""
        trainer, steps = self.trainer, self.steps_per_epoch
        limited = trainer.max_steps >= 0 and math.isfinite(steps)
        by_steps = trainer.max_steps / steps if limited else math.inf
        by_epochs = -1 if trainer.max_epochs is None else trainer.max_epochs
        return min(by_steps, by_epochs if by_epochs >= 0 else math.inf)

    @property
    def global_batch(self) -> int:
        """Images per optimizer step, over all ranks and accumulated batches; 0 if not known yet."""
        batch = self.hparams["batch_size"] or self._first_batch or 0
        return int(batch) * self.trainer.accumulate_grad_batches

    def configure_optimizers(self) -> torch.optim.Optimizer:
        hparams, trainer = self.hparams, self.trainer
        # Lightning's mixed precision cannot clip gradients with a fused optimizer.
        fused = trainer.strategy.root_device.type == "cuda" and not trainer.gradient_clip_val
        return sgd(
            parameter_groups(self.model, hparams["weight_decay"], hparams["decay_norm"]),
            lr=scaled_learning_rate(hparams["learning_rate"], self.global_batch),
            momentum=hparams["momentum"],
            fused=fused,
        )

    def on_fit_start(self) -> None:
        self._first_batch = None

    def _meet(self, labels: Tensor) -> None:
        """Learn from the first batch how many images a batch has, and tell what follows."""
        self._first_batch = len(labels) * self.trainer.world_size
        rate, batch = self.hparams["learning_rate"], self.global_batch
        scaled = scaled_learning_rate(rate, batch)
        self.print(f"learning rate {scaled:.6g} = {rate:g} x global batch {batch} / 256")
        if question := doubt(labels, self.hparams["num_classes"]):
            rank_zero_warn(question)

    def on_train_start(self) -> None:
        """Refuse a schedule that needs to know what nothing says.

        Raises:
            ValueError: The schedule needs the training's end, but neither epochs nor steps are
                limited; or it needs an epoch's length, and the loader has none.
        """
        is_step = self.hparams["schedule"] in ("step", "constant")
        if math.isinf(self.steps_per_epoch) and (self.hparams["warmup_epochs"] or not is_step):
            raise ValueError(
                f"the schedule {self.hparams['schedule']!r} with {self.hparams['warmup_epochs']:g} "
                "epochs of warm-up needs the length of an epoch, which this loader does not tell: "
                "set limit_train_batches of the Trainer"
            )
        if self.hparams["schedule"] == "cosine" and math.isinf(self.epochs):
            raise ValueError(
                'the schedule "cosine" reaches zero where the training ends, but this one has no '
                "limit; set --trainer.max_epochs or --trainer.max_steps"
            )

    def on_train_batch_start(self, batch: Batch, batch_idx: int) -> None:
        """Set this step's learning rate, a function of the step alone: resuming needs no state."""
        if self._first_batch is None:
            self._meet(batch[1])
        trainer, hparams, steps = self.trainer, self.hparams, self.steps_per_epoch
        factor = learning_rate_factor(
            trainer.current_epoch if math.isinf(steps) else trainer.global_step / steps,
            schedule=hparams["schedule"],
            epochs=self.epochs,
            warmup_epochs=hparams["warmup_epochs"],
            decay_every=hparams["decay_every"],
        )
        learning_rate = factor * scaled_learning_rate(hparams["learning_rate"], self.global_batch)
        for group in trainer.optimizers[0].param_groups:
            group["lr"] = learning_rate

    def on_before_optimizer_step(self, optimizer: torch.optim.Optimizer) -> None:
        """Log the figures of a step, but only if the loggers will see it: that takes 0.5 ms."""
        every: int = self.trainer.log_every_n_steps  # type: ignore[attr-defined]
        if every and (self.trainer.global_step + 1) % every == 0:
            self.log("train/loss_step", self.latest_loss, on_step=True, on_epoch=False)
            self.log("learning_rate", optimizer.param_groups[0]["lr"], on_step=True, on_epoch=False)
