"""The options of the command, which its flags are made from. Imports nothing heavy."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from jsonargparse.typing import PositiveInt

from bagnet.evidence.options import DataOptions
from datamodules.common.commands import Command


@dataclass(frozen=True)
class ModelOptions:
    """The network.

    Args:
        weights: Weights instead of --name: a file, a URL, or a name such as bagnet33.
        name: Name of the network, such as bagnet33, if the file does not say it.
    """

    weights: str | None = None
    name: str | None = None


@dataclass(frozen=True, kw_only=True)
class NetworkOptions:
    """A trained network: that of a run, or of a file.

    Args:
        name: Name of a run, whose best weights are used.
        runs_dir: Folder of all runs; by default $BAGNET_RUNS, or else runs.
        data: What the network sees of an image.
        model: The network.
    """

    name: str | None = None
    runs_dir: Path | None = None
    data: DataOptions = field(default_factory=DataOptions)
    model: ModelOptions = field(default_factory=ModelOptions)


@dataclass(frozen=True, kw_only=True)
class PredictOptions(NetworkOptions):
    """Options of `predict`.

    Args:
        images: Images, and folders with images in them or in their folders.
        out: The table; the same in Parquet is beside it.
        batch_size: Images at once.
        device: Where the network runs, such as cpu or cuda:1; by default the GPU, if there is one.
    """

    images: list[Path]
    out: Path = Path("predictions.csv")
    batch_size: PositiveInt = 32
    device: str | None = None


COMMAND = Command("bagnet.predict.command", PredictOptions, ("images",))
