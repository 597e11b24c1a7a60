"""Predicts how long an epoch of a BagNet-33 takes on many GPUs.

The default values are explained in docs/scaling.md; most of them are assumptions, so replace them
with your own figures. In the table, "batch" is the global batch, "ideal" compares with GPUs that
wait for nothing, and "most time" is what takes the largest share of an epoch.

A step with b images on each GPU takes

    compute    c = max(b / rate, floor)
    network    the part of the all-reduce that the backward pass does not hide
    data       the part beyond both of b / (images/s decoded or delivered)

and an epoch takes its steps, its validation (a forward pass is a third of a step) and the copies
of its checkpoints, which a thread writes. Not included: slow GPUs, other users of network and
storage, and a disk that needs longer for a checkpoint than the next epoch takes.
"""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass

from bagnet.bench.lib.report import short, show, write
from bagnet.bench.options import ScaleOptions

GRADIENTS = 73.24e6
"""Bytes of a BagNet-33's gradients in float32."""
BUCKET = 26.2e6
"""Bytes of gradients that DDP reduces together (25 MiB)."""
BACKWARD = 2 / 3
"""Share of a step that is its backward pass, which can hide an all-reduce."""
VALIDATION = 50_000
"""Images of the validation after each epoch."""
EPOCHS = 90
CHECKPOINT_MINUTES = 30
"""Time between two checkpoints in the middle of an epoch."""
EPOCH_CHECKPOINTS = 2
"""Copies that every epoch waits for: before its last step, and after its validation."""


@dataclass(frozen=True)
class Prediction:
    """The prediction for one number of GPUs.

    Attributes:
        gpus: Number of GPUs.
        batch: Images of a GPU in a step.
        step: Duration of a step, in seconds.
        rate: Training images/s of all GPUs, without validation and checkpoints.
        efficiency: That speed as a fraction of `gpus` times the speed of one GPU.
        epoch: Duration of an epoch with everything, in seconds.
        shares: What an epoch's time is spent on, as fractions that add up to 1.
        read: Bytes/s that all nodes read.
    """

    gpus: int
    batch: int
    step: float
    rate: float
    efficiency: float
    epoch: float
    shares: dict[str, float]
    read: float

    @property
    def bottleneck(self) -> str:
        """The name of the largest share."""
        return max(self.shares, key=lambda name: self.shares[name])


def run(options: ScaleOptions) -> None:
    """Print a prediction for each number of GPUs."""
    predictions = [predict(options, gpus) for gpus in options.gpus]
    columns = ["GPUs", "batch", "ms/step", "images/s", "ideal", "epoch s", f"{EPOCHS} epochs min"]
    show([*columns, "GB/s", "most time"], [_row(prediction) for prediction in predictions])
    write(options, {"predictions": [asdict(prediction) for prediction in predictions]})


def _row(prediction: Prediction) -> list[str]:
    largest = prediction.bottleneck
    return [
        f"{prediction.gpus:,}",
        f"{prediction.gpus * prediction.batch:,}",
        short(1e3 * prediction.step),
        short(prediction.rate),
        f"{prediction.efficiency:.0%}",
        short(prediction.epoch),
        short(prediction.epoch * EPOCHS / 60),
        short(prediction.read / 1e9),
        f"{largest} {prediction.shares[largest]:.0%}",
    ]


def ring_seconds(size: float, ranks: int, bandwidth: float, latency: float) -> float:
    """Duration of an all-reduce in a ring: 2 (N-1)/N size / bandwidth + 2 (N-1) latency.

    Each of the N ranks sends N-1 pieces of size / N to reduce them, and N-1 to distribute the sums;
    no algorithm sends less (Patarasuk & Yuan 2009, "Bandwidth optimal all-reduce algorithms for
    clusters of workstations").

    Args:
        size: Bytes to reduce.
        ranks: Number of ranks N.
        bandwidth: Bytes/s that a rank sends while it receives as many.
        latency: Duration of one hop, in seconds.
    """
    return 2 * (ranks - 1) / ranks * size / bandwidth + 2 * (ranks - 1) * latency


def tree_seconds(size: float, ranks: int, bandwidth: float, latency: float) -> float:
    """Duration of an all-reduce in two binary trees: 2 size / bandwidth + 2 log2(N) latency.

    Sanders, Speck & Träff 2009, "Two-tree algorithms for full bandwidth broadcast, reduction and
    scan". NCCL uses it for many nodes, because the hops of a ring add up. Arguments as for
    `ring_seconds`.
    """
    if ranks == 1:
        return 0.0
    return 2 * size / bandwidth + 2 * math.ceil(math.log2(ranks)) * latency


def all_reduce_seconds(options: ScaleOptions, size: float, gpus: int) -> float:
    """Duration of an all-reduce of `size` bytes: a ring in each node, and a ring or trees between.

    With g GPUs in a node, each sums up size / g within the node, reduces that with the GPUs of the
    same place in other nodes, and distributes it in its node.
    """
    inside, nodes = min(gpus, options.node), -(-gpus // options.node)
    latency = options.latency_us * 1e-6
    seconds = ring_seconds(size, inside, options.node_gbs * 1e9, latency)
    across = (size / inside, nodes, options.network_gbs * 1e9, latency)
    return seconds + min(ring_seconds(*across), tree_seconds(*across))


def exposed_seconds(compute: float, backward: float, buckets: list[float]) -> float:
    """How long a step waits for the network, in addition to its `compute` seconds.

    The k buckets become ready at regular intervals in the backward pass, the last one at its end,
    and are reduced one after the other:

        end_i = max(end_(i-1), ready_i) + t_i,    ready_i = compute (1 - backward + backward i / k)

    In a BagNet most weights are in the last layers, so most buckets are ready earlier than that:
    the result is an upper bound.

    Args:
        compute: Duration of a step, in seconds.
        backward: Fraction of the step that is its backward pass, 0 to 1.
        buckets: Duration of each bucket's all-reduce, in seconds.
    """
    end = 0.0
    for number, seconds in enumerate(buckets, start=1):
        ready = compute * (1 - backward + backward * number / len(buckets))
        end = max(end, ready) + seconds
    return max(0.0, end - compute)


def predict(options: ScaleOptions, gpus: int) -> Prediction:
    """Apply the formulas to one number of GPUs.

    Raises:
        ValueError: The GPUs do not fill nodes, or are too many for the batch or the images.
    """
    if gpus > options.node and gpus % options.node:
        raise ValueError(
            f"{gpus} GPUs do not fill nodes of {options.node}: give a multiple, or set --node"
        )
    if gpus > min(options.max_batch, VALIDATION):
        raise ValueError(
            f"{gpus} GPUs are too many for a global batch of at most {options.max_batch} images "
            f"and a validation of {VALIDATION}: each GPU needs one image; give fewer GPUs"
        )
    batch = min(options.batch, options.max_batch // gpus)
    if options.images < gpus * batch:
        raise ValueError(
            f"{options.images} images are less than one step of {gpus} x {batch}: give fewer GPUs"
        )
    useful = batch / options.rate
    compute = max(useful, options.floor_ms / 1e3)
    count = math.ceil(GRADIENTS / BUCKET)
    bucket = all_reduce_seconds(options, GRADIENTS / count, gpus)
    network = exposed_seconds(compute, BACKWARD, [bucket] * count) if gpus > 1 else 0.0

    decode = options.cores * options.core_rate
    nodes = -(-gpus // options.node)
    bandwidth = min(options.read_gbs * nodes, options.storage_gbs) * 1e9
    deliver = bandwidth / (options.image_kb * 1e3) / gpus
    step = max(compute + network, batch / decode, batch / deliver)
    slower = "decoding" if decode < deliver else "reading"

    steps = options.images // (gpus * batch)
    validation_batches = math.ceil(VALIDATION / (gpus * batch))  # on each GPU
    forward = max(compute * (1 - BACKWARD), batch / min(decode, deliver))
    checkpoints = EPOCH_CHECKPOINTS + steps * step // (60 * CHECKPOINT_MINUTES)
    seconds = {
        "compute": steps * useful,
        "launching": steps * (compute - useful),
        "network": steps * network,
        slower: steps * (step - compute - network),
        "validation": validation_batches * forward,
        "saving": checkpoints * options.checkpoint_s,
    }
    epoch, rate = sum(seconds.values()), gpus * batch / step
    return Prediction(
        gpus=gpus,
        batch=batch,
        step=step,
        rate=rate,
        efficiency=rate / (gpus * options.rate),
        epoch=epoch,
        shares={name: part / epoch for name, part in seconds.items()},
        read=rate * options.image_kb * 1e3,
    )
