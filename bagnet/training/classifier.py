"""The LightningModule: steps, loss and metrics of an image classifier."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, cast

from pytorch_lightning import Callback
from torch import Tensor

from bagnet.model.network import BagNet
from bagnet.run.agreement import share_buffers
from bagnet.training.forward import CompileMode
from bagnet.training.labels import explained
from bagnet.training.loss_module import LossModule
from bagnet.training.metrics import ClassificationMetrics, among, evaluation_metrics
from bagnet.training.recipe.averaging import EMA
from bagnet.training.recipe.batchnorm import PreciseBatchNorm
from bagnet.training.recipe.freezing import Freezing
from bagnet.training.recipe.mixing import largest
from bagnet.training.recipe.schedule import Schedule, steps_per_epoch
from datamodules.common.batch import Batch
from datamodules.common.ranges import require_range

RANGES = {
    "learning_rate": (0,),
    "momentum": (0, 1),
    "weight_decay": (0,),
    "warmup_epochs": (0,),
    "decay_every": (1,),
    "floor": (0, 1),
    "backbone_rate": (0,),
    "label_smoothing": (0, 1),
    "mixup": (0,),
    "cutmix": (0,),
    "sparsity": (0,),
    "ema": (0, 1),
    "precise_bn": (0,),
    "freeze": (-1,),
    "batch_size": (1,),
}
"""The least and the largest value of settings."""


class BagNetClassifier(LossModule):
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
        optimizer: "sgd", "adamw", or the name of one of timm's, such as "lamb", "lars" or "muon",
            for which timm must be installed.
        optimizer_args: Further arguments of the optimizer's class, such as {nesterov: true}.
        momentum: Momentum of SGD.
        weight_decay: Weight decay.
        decay_norm: Whether biases and normalisation layers are decayed too, as in the paper.
        schedule: "step" divides the learning rate by ten every decay_every epochs. "cosine" and
            "one-cycle" let it fall until the training ends (max_epochs or max_steps), the latter
            along a straight line. "constant" leaves it as it is.
        warmup_epochs: Epochs over which the learning rate rises linearly from zero.
        decay_every: Epochs between two steps of the "step" schedule.
        floor: The smallest factor of the learning rate after the warm-up.
        backbone_rate: Factor of the learning rate of all layers but the classifier.
        freeze: Epochs in which only the classifier is trained, at the beginning; -1 for all.
        label_smoothing: The part of each label that is spread evenly over all classes.
        mixup: Alpha of MixUp, which blends the images of a batch; 0 switches it off.
        cutmix: Alpha of CutMix, which pastes a part of one image into another; 0 switches it off.
            With both, each batch gets one of the two.
        balanced: Whether all classes count equally in the loss, however many images they have.
        sparsity: Factor of a penalty on a BagNet's evidence, the mean of its absolute values, which
            is added to the loss; 0 switches it off.
        ema: How much of a moving average of the weights each step keeps, such as 0.999, about 1,000
            steps. Validations and `state_dict` have the average then. 0 switches it off.
        precise_bn: Number of training batches from which BatchNorm's statistics are computed anew
            before each validation; 0 leaves them as they are.
        activation_checkpointing: Whether to save memory by computing a BagNet's blocks twice.
        test_flip: Whether validation averages the logits of an image and of its mirror image.
        seed: Seed for what is drawn in a step; train.py takes it from seed_everything.
        batch_size: The global batch, which scales the learning rate; by default, that of the first
            batch over all devices. train.py takes it from the data.
        weights: Initial weights: a file, a run, a URL, or a name such as bagnet33
            (docs/weights.md). If their classes are others than the data's, the classifier starts
            afresh, and this is said. A resumed training does not read them.
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

    Examples:
        >>> import torch
        >>> classifier = BagNetClassifier("bagnet9", num_classes=10, width=4)
        >>> classifier(torch.zeros(2, 3, 32, 32, dtype=torch.uint8)).shape
        torch.Size([2, 10])
    """

    def __init__(
        self,
        name: str = "bagnet33",
        num_classes: int = 1000,
        width: int = 64,
        learning_rate: float = 0.01,
        optimizer: str = "sgd",
        optimizer_args: Mapping[str, Any] | None = None,
        momentum: float = 0.9,
        weight_decay: float = 1e-4,
        decay_norm: bool = True,
        schedule: Schedule = "step",
        warmup_epochs: float = 0.0,
        decay_every: int = 30,
        floor: float = 0.0,
        backbone_rate: float = 1.0,
        freeze: int = 0,
        label_smoothing: float = 0.0,
        mixup: float = 0.0,
        cutmix: float = 0.0,
        balanced: bool = False,
        sparsity: float = 0.0,
        ema: float = 0.0,
        precise_bn: int = 0,
        activation_checkpointing: bool = False,
        test_flip: bool = False,
        seed: int = 0,
        batch_size: int | None = None,
        weights: str | None = None,
        compile: bool | CompileMode = False,
        classes: Sequence[str] | None = None,
    ) -> None:
        super().__init__(
            name, num_classes, width, weights, compile, classes, activation_checkpointing
        )
        # Only for the checkpoint: the command line gives the loggers the whole configuration.
        ignored = ["weights", "compile", "classes", "activation_checkpointing"]
        self.save_hyperparameters(ignore=ignored, logger=False)
        for setting, limits in RANGES.items():
            if self.hparams[setting] is not None:
                require_range(setting, self.hparams[setting], *limits)
        if sparsity and not isinstance(self.model, BagNet):
            raise ValueError(f"sparsity is for BagNets, and this is a {name}")
        self.train_metrics = ClassificationMetrics(num_classes)
        self.val_metrics, self.test_metrics = (evaluation_metrics(num_classes) for _ in range(2))

    def configure_callbacks(self) -> list[Callback]:
        """The parts of the recipe that are callbacks."""
        ema, precise_bn, freeze = (self.hparams[key] for key in ("ema", "precise_bn", "freeze"))
        callbacks: list[Callback] = [EMA(ema)] if ema else []
        callbacks += [PreciseBatchNorm(precise_bn)] if precise_bn else []
        return callbacks + [Freezing(freeze if freeze > 0 else math.inf)] * bool(freeze)

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        images, labels = batch[:2]
        with explained(labels, self.num_classes, first=batch_idx == 0):
            loss = self._train(images, labels, batch_idx)
        self.latest_loss = loss.detach()
        return loss

    def _train(self, images: Tensor, labels: Tensor, batch_idx: int) -> Tensor:
        """Mix a batch, add it to the metrics, and return its loss."""
        images, labels = self.mixed(images, labels, batch_idx)
        loss, logits = self.loss(images, labels)
        self.train_metrics.update(logits.detach(), labels if labels.ndim == 1 else largest(labels))
        return loss

    def on_validation_epoch_start(self) -> None:
        if self.trainer.world_size > 1:
            share_buffers(self.model)  # DDP does not do it in each step (`ddp_settings`)

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        self._evaluate(batch, batch_idx, self.val_metrics)

    def test_step(self, batch: Batch, batch_idx: int) -> None:
        self._evaluate(batch, batch_idx, self.test_metrics)

    def _evaluate(self, batch: Batch, batch_idx: int, metrics: ClassificationMetrics) -> None:
        images, labels = batch[:2]
        with explained(labels, self.num_classes, first=batch_idx == 0):
            logits = self(images).float()
            if self.hparams["test_flip"]:
                logits = (logits + self(images.flip(-1)).float()) / 2
            metrics.update(among(logits, self.present), labels)

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
        if trainer.training and trainer.global_step % steps_per_epoch(trainer):
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
