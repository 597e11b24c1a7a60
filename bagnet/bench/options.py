"""The options of each benchmark, which its flags are made from. Imports nothing heavy."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from jsonargparse.typing import NonNegativeInt, PositiveFloat, PositiveInt

BagNetName = Literal[
    "bagnet9", "bagnet17", "bagnet25", "bagnet29", "bagnet33", "bagnet65", "bagnet77"
]


@dataclass(frozen=True, kw_only=True)
class BenchOptions:
    """What every benchmark takes.

    Args:
        out: JSON file for all figures, with versions, commit and machine.
    """

    out: Path | None = None


@dataclass(frozen=True, kw_only=True)
class RoundsOptions(BenchOptions):
    """What every benchmark takes whose variants take turns.

    Args:
        rounds: Turns of each variant.
    """

    rounds: PositiveInt = 3


@dataclass(frozen=True, kw_only=True)
class DataOptions(RoundsOptions):
    """Options of `data`.

    Args:
        root: Packed data, of which the train split is read.
        workers: Processes that decode; 0 measures one core.
        batch_size: Images in a batch.
        image_size: Side of the crops, in pixels.
        seconds: Duration of each measurement, after a warm-up.
        variants: Variants to measure; by default all except dali and ffcv.
        other: Another checkout of this project, whose loader is measured too.
        other_root: Data packed by that checkout; by default ROOT.
    """

    root: Path
    workers: NonNegativeInt = 0
    batch_size: PositiveInt = 64
    image_size: PositiveInt = 224
    seconds: PositiveFloat = 5.0
    variants: list[str] = field(default_factory=list)
    other: Path | None = None
    other_root: Path | None = None


@dataclass(frozen=True, kw_only=True)
class NetworkOptions(RoundsOptions):
    """What every benchmark of networks takes.

    Args:
        model: The network.
        width: Channels of its first convolution.
        image_size: Side of the images, in pixels; by default 224 on a GPU (`evidence`: 64)
            and 64 on a CPU.
        device: Such as cpu, cuda or cuda:1; by default cuda if there is a GPU.
        variants: Variants to measure, from the list above.
    """

    model: BagNetName = "bagnet33"
    width: PositiveInt = 64
    image_size: PositiveInt | None = None
    device: str | None = None
    variants: list[str] = field(default_factory=list)


@dataclass(frozen=True, kw_only=True)
class StepOptions(NetworkOptions):
    """Options of `train` and `infer`.

    Args:
        batch_size: Images in a batch; by default 128 on a GPU (`infer`: 256) and 16 on a CPU.
        steps: Steps of each turn; by default 50 on a GPU and 5 on a CPU.
    """

    batch_size: PositiveInt | None = None
    steps: PositiveInt | None = None


@dataclass(frozen=True, kw_only=True)
class PlanOptions(RoundsOptions):
    """Options of `plan`.

    Args:
        samples: Samples of each data set; by default those of ImageNet-1k and ImageNet-21k.
        ranks: Numbers of ranks.
        batch_size: Samples of a rank's batch.
    """

    samples: list[PositiveInt] = field(default_factory=lambda: [1_281_167, 14_197_122])
    ranks: list[PositiveInt] = field(default_factory=lambda: [8, 512, 4096])
    batch_size: PositiveInt = 32


@dataclass(frozen=True, kw_only=True)
class StartupOptions(RoundsOptions):
    """Options of `startup`.

    Args:
        root: Packed data to train on.
        variants: Processes to measure, from the list above.
    """

    root: Path
    variants: list[str] = field(default_factory=list)


@dataclass(frozen=True, kw_only=True)
class ScaleOptions(BenchOptions):
    """Options of `scale`, which a prediction is made from.

    Args:
        gpus: Numbers of GPUs.
        rate: Training speed of one GPU by itself, in images/s (one H100: docs/gpu.md).
        batch: Images of a GPU in a step, at most.
        max_batch: Largest global batch that still trains well.
        floor_ms: Shortest step, in which the host starts all kernels, in ms.
        images: Training images.
        node: GPUs in a node.
        node_gbs: All-reduce within a node, in GB/s of each GPU.
        network_gbs: Network between nodes, in GB/s of each GPU.
        latency_us: Latency of one hop of an all-reduce, in us.
        cores: CPU cores for the data of each GPU.
        core_rate: Decoding speed of one core, in images/s.
        image_kb: Size of an image file, in kB.
        read_gbs: Speed at which a node reads shards, in GB/s.
        storage_gbs: Speed at which all nodes together read shards, in GB/s.
        checkpoint_s: Time that training waits for the copy of a checkpoint, in s.
    """

    gpus: list[PositiveInt] = field(default_factory=lambda: [8, 64, 512, 4096])
    rate: PositiveFloat = 1358.0
    batch: PositiveInt = 128
    max_batch: PositiveInt = 8192
    floor_ms: PositiveFloat = 12.0
    images: PositiveInt = 1_281_167
    node: PositiveInt = 8
    node_gbs: PositiveFloat = 300.0
    network_gbs: PositiveFloat = 40.0
    latency_us: PositiveFloat = 10.0
    cores: PositiveFloat = 12.0
    core_rate: PositiveFloat = 840.0
    image_kb: PositiveFloat = 110.0
    read_gbs: PositiveFloat = 5.0
    storage_gbs: PositiveFloat = 200.0
    checkpoint_s: PositiveFloat = 0.06


@dataclass(frozen=True, kw_only=True)
class GpuOptions:
    """Options of `gpu`.

    Args:
        pieces: Pieces to run, from the list above; by default all.
        rehearse: Whether to run every piece at toy size on the CPU, to see that it works.
        out: Folder for summary, figures and logs; by default results/gpu, or results/rehearsal.
        data: Folder for the generated images (5 GB) and the runs; by default data/gpu, or
            data/rehearsal.
    """

    pieces: list[str] = field(default_factory=list)
    rehearse: bool = False
    out: Path | None = None
    data: Path | None = None
