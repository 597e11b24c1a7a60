"""A network with its loss: mixed batches, the weights of the classes, sparse evidence."""

from __future__ import annotations

import torch
from torch import Tensor

from bagnet.model.registry import normalize
from bagnet.training.labels import class_weights
from bagnet.training.optimized_module import OptimizedModule
from bagnet.training.recipe.mixing import classification_loss, mix
from datamodules.plan import random_seed


class LossModule(OptimizedModule):
    """The part of `BagNetClassifier` that computes the loss of a batch; its settings are there."""

    _class_weights: Tensor | None = None
    """Weights of the classes in the loss, (classes,), if they count equally."""

    def setup(self, stage: str) -> None:
        """Also count the training images of each class, if the classes are to count equally.

        Raises:
            ValueError: The data has other classes, or cannot say how many images a class has.
        """
        super().setup(stage)
        if stage == "fit" and self.hparams["balanced"]:
            data = self.trainer.datamodule  # type: ignore[attr-defined]
            weights = torch.tensor(class_weights(data))
            self._class_weights = weights.to(self.trainer.strategy.root_device)

    def mixed(self, images: Tensor, labels: Tensor, batch_idx: int) -> tuple[Tensor, Tensor]:
        """Mix a training batch, as the settings say; labels may become shares (B, classes)."""
        mixup, cutmix = self.hparams["mixup"], self.hparams["cutmix"]
        if not mixup and not cutmix:
            return images, labels
        if not images.is_floating_point():
            images = normalize(images)
        trainer = self.trainer
        number = batch_idx * trainer.world_size + trainer.global_rank
        seed = random_seed(self.hparams["seed"], trainer.current_epoch, number)
        return mix(images, labels, self.num_classes, mixup=mixup, cutmix=cutmix, seed=seed)

    def loss(self, images: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        """Compute the loss of a batch, and its logits (B, classes) in float32.

        Args:
            images: uint8, or floats that are normalised, (B, 3, H, W).
            labels: int64 (B,), -1 for an unreadable sample; or the shares of the classes.
        """
        smoothing, sparsity = self.hparams["label_smoothing"], self.hparams["sparsity"]
        if not sparsity:
            logits = self(images).float()
            return classification_loss(logits, labels, smoothing, self._class_weights), logits
        evidence = self.evidence(images).float()
        logits = evidence.mean((2, 3))
        loss = classification_loss(logits, labels, smoothing, self._class_weights)
        return loss + sparsity * strength(evidence, labels), logits


def strength(evidence: Tensor, labels: Tensor) -> Tensor:
    """Mean of |evidence| over all entries and classes of the readable images of a batch.

    As a penalty it makes the evidence sparse (Donteu et al. 2023, "Sparse Activations for
    Interpretable Disease Grading", https://openreview.net/forum?id=us8BFTsWOq). They take the sum;
    with the mean, a factor means the same for all sizes of images.

    Args:
        evidence: (B, classes, H', W').
        labels: int64 (B,), -1 for an unreadable sample; or the shares of the classes.
    """
    readable = labels >= 0 if labels.ndim == 1 else labels.sum(1) > 0
    means = evidence.abs().mean((1, 2, 3))
    return (means * readable).sum() / readable.sum().clamp(min=1)
