"""A network in a Trainer: from pixels to logits, with the classes of its data."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, replace
from typing import Any

from pytorch_lightning import LightningModule
from pytorch_lightning.utilities import rank_zero_only
from torch import Tensor

from bagnet.model.card import Card, card_of, set_card
from bagnet.model.network import BagNet
from bagnet.model.registry import build_model
from bagnet.model.weights import start_from
from bagnet.training.forward import (
    CompileMode,
    Function,
    compiled,
    evidence,
    logits,
    memory_format,
)
from bagnet.training.labels import card_of_data, present_classes, require_classes
from datamodules.common.ranges import require_range


class NetworkModule(LightningModule):
    """The part of `BagNetClassifier` that has nothing to do with learning; its arguments are there.

    Attributes:
        model: The network.
        notice: What the user should know about its weights; empty if nothing.
        has_fresh_classifier: Whether no file had weights for the data's classes.
        is_set_up: Whether a Trainer has it.
        present: Labels of the classes that count in evaluations, int64 (n,); None for all.
    """

    def __init__(
        self,
        name: str,
        num_classes: int,
        width: int,
        weights: str | None,
        compile: bool | CompileMode,
        classes: Sequence[str] | None,
        activation_checkpointing: bool,
    ) -> None:
        super().__init__()
        require_range("num_classes", num_classes, 1)
        require_range("width", width, 1)
        self.name, self.num_classes, self.width = name, num_classes, width
        self.model = build_model(name, num_classes=num_classes, width=width)
        set_card(self.model, Card(name, tuple(classes or ())))
        self.notice, self.has_fresh_classifier = (
            start_from(weights, self.model, name, classes or ()) if weights else ("", True)
        )
        self.compile_mode = "default" if compile is True else compile or None
        if activation_checkpointing:
            if not isinstance(self.model, BagNet):
                raise ValueError(f"activation_checkpointing is for BagNets, and this is a {name}")
            self.model.recompute = True
        self.is_set_up = False
        self.present: Tensor | None = None

    def setup(self, stage: str) -> None:
        """Compare the classes with the data's, and choose the weights' memory format.

        Raises:
            ValueError: The data has other classes.
        """
        self.is_set_up = True
        data = card_of_data(self.trainer.datamodule)  # type: ignore[attr-defined]
        if data.classes:
            require_classes(self.model, self.num_classes, data)
            if stage == "fit":
                set_card(self.model, replace(data, name=self.name))
        if self.notice:
            rank_zero_only(print)(f"note: {self.notice}")
        device = self.trainer.strategy.root_device
        data_module: Any = self.trainer.datamodule  # type: ignore[attr-defined]
        self.present = present_classes(data_module, device)
        if self.present is not None:
            rank_zero_only(print)(
                f"note: an evaluation set: {len(self.present):,} of {self.num_classes:,} classes "
                "have images, and only these count"
            )
        self.model.to(memory_format=memory_format(device, self.width))

    def forward(self, images: Tensor) -> Tensor:
        """Logits (B, classes) of images (B, 3, H, W): uint8, or floats that are normalised."""
        return self._run(logits, images)

    def evidence(self, images: Tensor) -> Tensor:
        """A BagNet's evidence map (B, classes, H', W'), of which the logits are the mean."""
        return self._run(evidence, images)

    def _run(self, function: Function, images: Tensor) -> Tensor:
        network = compiled(self.compile_mode, function) if self.compile_mode else function
        return network(self.model, images, memory_format(images.device, self.width))

    def predict_step(self, batch: Any, batch_idx: int) -> Tensor:
        """Probabilities (B, classes) of a batch of images, with or without labels."""
        images = batch if isinstance(batch, Tensor) else batch[0]
        logits: Tensor = self(images)
        return logits.float().softmax(1)

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Save what is known of the network."""
        checkpoint["card"] = asdict(card_of(self.model))

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Restore what is known of the network, unless the data have said it."""
        if not card_of(self.model).classes:
            set_card(self.model, Card.of(checkpoint.get("card", {"name": self.name})))
