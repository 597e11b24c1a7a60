"""The models that experiments measure, as the user names them: LABEL=FILE, or a run."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import torch
from torch import nn

from bagnet.experiments.options import MeasureOptions
from bagnet.model.card import OtherClasses
from bagnet.model.registry import is_model
from bagnet.model.sources import find_weights
from bagnet.model.weights import load_model
from bagnet.run.trained import Sizes, choose_sizes
from datamodules.common.files import user_path
from datamodules.remote.urls import redacted_text

Model = TypeVar("Model", bound="ModelFile")


@dataclass(frozen=True)
class ModelFile:
    """A file of weights, and the label that its results go by: anything that can name a file.

    If `build_model` knows the label, the file must have the weights of this network.
    """

    label: str
    path: Path

    @classmethod
    def parse(cls: type[Model], text: str) -> Model:
        """Read LABEL=FILE, LABEL=RUN or RUN, where RUN is the name or the folder of a run.

        Raises:
            ValueError: The text has another form, the label cannot name a file, or there is no such
                file or run.
        """
        label, separator, path = text.partition("=")
        if not separator:
            label, path = Path(text).name, text
        if not re.fullmatch(r"\w[\w.-]*", label) or not path:
            raise ValueError(
                f"{redacted_text(text)!r} is not LABEL=FILE, such as "
                "bagnet33=runs/bagnet33/checkpoints/best.ckpt"
            )
        if not separator and user_path(path).is_file():
            raise ValueError(f"{text!r} has no label: give LABEL=FILE, such as bagnet33={text}")
        try:
            return cls(label, find_weights(path, warn=False))  # a run is what most users mean
        except ValueError as error:
            raise ValueError(f"--models {redacted_text(text)}: {error}") from None

    @property
    def name(self) -> str | None:
        """Name of the network, if the label is one."""
        return self.label if is_model(self.label) else None

    def load(self, device: torch.device, classes: Sequence[str] | None) -> nn.Module:
        """Load the network in evaluation mode onto a device.

        Args:
            device: Where it will be.
            classes: Class ids of the data, by label; the outputs have this order. None leaves them
                in the network's.

        Raises:
            ValueError: The file has no weights of this network, or they are for other classes.
        """
        try:
            return load_model(self.path, self.name, classes=classes).to(device)
        except OtherClasses as error:
            raise ValueError(
                f"{self.label}: {error}; give the weights of a network trained on this data, or "
                "the data it was trained on"
            ) from None


def parse_models(words: Sequence[str]) -> list[ModelFile]:
    """Read --models.

    Raises:
        ValueError: As `ModelFile.parse`, or a label occurs twice.
    """
    models = [ModelFile.parse(word) for word in words]
    labels = [model.label for model in models]
    if len(set(labels)) < len(labels):
        raise ValueError(f"--models has a label twice ({', '.join(labels)}): each needs its own")
    return models


def sizes_of(options: MeasureOptions) -> Sizes:
    """The sizes of the images: those of the options, or else of the models' runs.

    Raises:
        ValueError: As `parse_models`, or the runs have different sizes.
    """
    checkpoints = [model.path for model in parse_models(options.models)]
    return choose_sizes(options.data.image_size, options.data.resize_size, checkpoints)
