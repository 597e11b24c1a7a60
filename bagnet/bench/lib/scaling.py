"""Images a second and the time of an epoch on N GPUs, predicted from measured parts. Pure arithmetic, no torch.

A step of a GPU with b images takes

    compute    c = max(b / rate, floor)
    network    what of the gradients' all-reduce lies beyond the backward pass that hides it (`exposed_seconds`)
    data       what of b / (images/s that cores decode or that storage delivers) lies beyond both

and an epoch that of its steps, of its validation (a forward pass: a third of a step's work) and of its checkpoints.

Left out: GPUs that are not equally fast, and other users of network and storage. Both make large jobs slower.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any


def _option(default: float, text: str) -> Any:
    return field(default=default, metadata={"help": text})


@dataclass(frozen=True)
class Parts:
    """What a prediction is made of; each is an option of ``python -m bagnet.bench scale``."""

    rate: float = _option(2150.0, "training images/s of one GPU by itself")
    batch: int = _option(128, "images a GPU and step, at most")
    max_batch: int = _option(8192, "largest global batch that still trains well")
    floor_ms: float = _option(12.0, "shortest step, in which the host starts all kernels")
    images: int = _option(1_281_167, "training images")
    validation: int = _option(50_000, "validation images, after each epoch")
    epochs: int = _option(90, "epochs")
    gradient_mb: float = _option(73.24, "gradients, in MB")
    bucket_mb: float = _option(26.2, "gradients that are reduced together, in MB (DDP: 25 MiB)")
    backward: float = _option(2 / 3, "share of a step that is its backward pass, and can hide them")
    node: int = _option(8, "GPUs of a node")
    node_gbs: float = _option(300.0, "all-reduce within a node, in GB/s of each GPU")
    network_gbs: float = _option(40.0, "network between nodes, in GB/s of each GPU")
    latency_us: float = _option(10.0, "of one hop of an all-reduce, in us")
    cores: float = _option(12.0, "CPU cores for each GPU's data")
    core_rate: float = _option(840.0, "images/s that one core decodes")
    image_kb: float = _option(110.0, "bytes read for an image, in kB")
    read_gbs: float = _option(5.0, "shards read by a node, in GB/s")
    storage_gbs: float = _option(200.0, "shards read by all nodes together, in GB/s")
    checkpoint_s: float = _option(1.0, "the training waits for a checkpoint, in s")
    checkpoint_minutes: float = _option(30.0, "between checkpoints amid an epoch, in minutes")


@dataclass(frozen=True)
class Prediction:
    """For one number of GPUs.

    Attributes:
        gpus: Their number N.
        batch: Images a GPU and step.
        step: Seconds.
        rate: Training images/s of all GPUs, validation and checkpoints left out.
        efficiency: That, as a share of N times the rate of one GPU.
        epoch: Seconds, all in.
        shares: What an epoch's time goes into, as shares that add up to 1.
        read: Bytes a second that all nodes read.
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
    def binds(self) -> str:
        """The largest of the shares."""
        return max(self.shares, key=lambda name: self.shares[name])


def ring_seconds(size: float, ranks: int, bandwidth: float, latency: float) -> float:
    """An all-reduce of ``size`` bytes in a ring: 2 (N-1)/N size / bandwidth + 2 (N-1) latency.

    Each rank sends N-1 pieces of size / N to reduce them, and N-1 to hand the sums out; nothing sends less (Patarasuk & Yuan
    2009, "Bandwidth optimal all-reduce algorithms for clusters of workstations").

    Args:
        size: Bytes.
        ranks: N.
        bandwidth: Bytes a second that a rank sends while it receives as many.
        latency: Seconds of one hop.
    """
    return 2 * (ranks - 1) / ranks * size / bandwidth + 2 * (ranks - 1) * latency


def tree_seconds(size: float, ranks: int, bandwidth: float, latency: float) -> float:
    """The same in two binary trees at once: 2 size / bandwidth + 2 log2(N) latency.

    Sanders, Speck & Träff 2009, "Two-tree algorithms for full bandwidth broadcast, reduction and scan"; NCCL's choice for
    many nodes, as a ring's hops add up.
    """
    if ranks == 1:
        return 0.0
    return 2 * size / bandwidth + 2 * math.ceil(math.log2(ranks)) * latency


def all_reduce_seconds(parts: Parts, size: float, gpus: int) -> float:
    """An all-reduce of ``size`` bytes over nodes: a ring inside each, and between nodes a ring or trees, the faster.

    With g GPUs a node, each sums up size / g within the node, reduces that with its like on the other nodes, and hands it
    to its neighbours.
    """
    inside, nodes = min(gpus, parts.node), -(-gpus // parts.node)
    latency = parts.latency_us * 1e-6
    seconds = ring_seconds(size, inside, parts.node_gbs * 1e9, latency)
    across = (size / inside, nodes, parts.network_gbs * 1e9, latency)
    return seconds + min(ring_seconds(*across), tree_seconds(*across))


def exposed_seconds(compute: float, backward: float, buckets: list[float]) -> float:
    """What a step waits for the network, beyond its own ``compute`` seconds.

    The k buckets become ready at even distances in the backward pass, the last one at its end, and follow each other:

        end_i = max(end_(i-1), ready_i) + t_i,    ready_i = compute (1 - backward + backward i / k),    i = 1 ... k

    In a BagNet most weights are in the last layers, so most buckets are ready earlier than that: this errs on the safe side.

    Args:
        compute: Seconds of a step.
        backward: The share of it that is the backward pass.
        buckets: Seconds of each bucket's all-reduce.
    """
    end = 0.0
    for number, seconds in enumerate(buckets, start=1):
        ready = compute * (1 - backward + backward * number / len(buckets))
        end = max(end, ready) + seconds
    return max(0.0, end - compute)


def predict(parts: Parts, gpus: int) -> Prediction:
    """The formulas above, for one number of GPUs.

    Raises:
        ValueError: The GPUs are none, do not fill nodes, or are more than the global batch's or validation's images.
    """
    if gpus < 1 or (gpus > parts.node and gpus % parts.node):
        raise ValueError(f"{gpus} GPUs do not fill nodes of {parts.node}: give multiples of it")
    if gpus > min(parts.max_batch, parts.validation):
        raise ValueError(
            f"{gpus} GPUs for a global batch of at most {parts.max_batch} images and a validation of "
            f"{parts.validation}: each GPU needs one; take fewer GPUs, or larger ones"
        )
    batch = min(parts.batch, parts.max_batch // gpus)
    if parts.images < gpus * batch:
        raise ValueError(f"{parts.images} images are no step of {gpus} x {batch}: take fewer GPUs")
    useful = batch / parts.rate
    compute = max(useful, parts.floor_ms / 1e3)
    count = math.ceil(parts.gradient_mb / parts.bucket_mb)
    bucket = all_reduce_seconds(parts, parts.gradient_mb * 1e6 / count, gpus)
    network = exposed_seconds(compute, parts.backward, [bucket] * count) if gpus > 1 else 0.0

    decode = parts.cores * parts.core_rate
    nodes = -(-gpus // parts.node)
    deliver = min(parts.read_gbs * nodes, parts.storage_gbs) * 1e9 / (parts.image_kb * 1e3) / gpus
    step = max(compute + network, batch / decode, batch / deliver)
    slower = "decoding" if decode < deliver else "reading"

    steps = parts.images // (gpus * batch)
    batches = math.ceil(parts.validation / (gpus * batch))  # of validation, on each GPU
    forward = max(compute * (1 - parts.backward), batch / min(decode, deliver))
    # Before an epoch's last step, after its validation, and the best; and amid it by the clock.
    checkpoints = 3 + steps * step // (60 * parts.checkpoint_minutes)
    seconds = {
        "compute": steps * useful,
        "launching": steps * (compute - useful),
        "network": steps * network,
        slower: steps * (step - compute - network),
        "validation": batches * forward,
        "saving": checkpoints * parts.checkpoint_s,
    }
    epoch, rate = sum(seconds.values()), gpus * batch / step
    return Prediction(
        gpus=gpus,
        batch=batch,
        step=step,
        rate=rate,
        efficiency=rate / (gpus * parts.rate),
        epoch=epoch,
        shares={name: part / epoch for name, part in seconds.items()},
        read=rate * parts.image_kb * 1e3,
    )
