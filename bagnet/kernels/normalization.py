"""What nn.BatchNorm2d and nn.SyncBatchNorm do beside the arithmetic on activations: statistics, and their gradients.

Moments come from the kernels. Under nn.SyncBatchNorm, the ranks put theirs together between two kernels, forward and
backward, as it does itself (which refuses CPUs).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.distributed as dist
from torch import Tensor, nn

from bagnet.kernels.moments import Moments
from bagnet.kernels.pointwise import Scaling
from bagnet.kernels.pointwise_gradient import Sums

Norm = nn.BatchNorm2d | nn.SyncBatchNorm


@dataclass(frozen=True)
class Normalization:
    """One pass through a normalisation; all tensors are float32 (C,).

    Attributes:
        mean: Of the batch, or the running one.
        rstd: One over the root of the variance and eps.
        by: What to multiply with and to add.
        count: Rows of all ranks behind the statistics; None for running ones, which the input does not move.
        group: The ranks, if there are several.
    """

    mean: Tensor
    rstd: Tensor
    by: Scaling
    count: int | Tensor | None
    group: dist.ProcessGroup | None

    def coefficients(self, sums: Sums) -> Tensor:
        """How the gradient of the raw values follows from that of the normalised ones, ``a g + b y + c``: (3, C)."""
        a = self.by.scale
        if self.count is None:
            return torch.stack([a, torch.zeros_like(a), torch.zeros_like(a)])
        total = torch.stack(sums)
        if self.group is not None:
            dist.all_reduce(total, group=self.group)
        gradient, products = total / self.count
        b = -a * self.rstd.square() * products
        return torch.stack([a, b, -a * gradient - b * self.mean])

    def parameter_gradients(self, sums: Sums) -> tuple[Tensor, Tensor]:
        """Of weight and bias, of this rank alone: what trains the network adds those of all ranks up."""
        return sums.products * self.rstd, sums.gradient


def measures(norm: Norm) -> bool:
    """Whether it normalises by the batch."""
    return norm.training or norm.running_mean is None


def normalization(norm: Norm, moments: Moments | None, rows: int) -> Normalization:
    """Of a batch by its moments, which the running statistics then follow; or by the running statistics.

    Args:
        norm: The module.
        moments: Of this rank's rows; None where it ``measures`` nothing.
        rows: How many.

    Raises:
        ValueError: There is but one row, which has no variance.
    """
    if moments is None:
        assert norm.running_mean is not None
        assert norm.running_var is not None
        mean, variance = norm.running_mean.float(), norm.running_var.float()
        return _normalization(norm, mean, variance, None, None)
    group = _ranks(norm)
    if rows == 1 and group is None:
        raise ValueError(
            "one image with a map of one entry has no variance to train with: use larger batches or images"
        )
    count: int | Tensor = rows
    if group is not None:
        moments, count = _of_all_ranks(moments, rows, group)
    mean, variance = moments.mean, moments.squares / count
    if norm.training and norm.running_mean is not None and norm.running_var is not None:
        assert norm.num_batches_tracked is not None
        norm.num_batches_tracked.add_(1)
        # No momentum stands for the mean over all batches so far.
        share = 1 / norm.num_batches_tracked if norm.momentum is None else norm.momentum
        unbiased = moments.squares / (count - 1)
        for running, new in ((norm.running_mean, mean), (norm.running_var, unbiased)):
            running.lerp_(new.to(running.dtype), share)
    return _normalization(norm, mean, variance, count, group)


def _normalization(
    norm: Norm,
    mean: Tensor,
    variance: Tensor,
    count: int | Tensor | None,
    group: dist.ProcessGroup | None,
) -> Normalization:
    rstd = (variance + norm.eps).rsqrt()
    scale = norm.weight.detach().float() * rstd
    shift = norm.bias.detach().float() - mean * scale
    return Normalization(mean, rstd, Scaling(scale, shift), count, group)


def _ranks(norm: Norm) -> dist.ProcessGroup | None:
    """The ranks whose batches are one to an nn.SyncBatchNorm that trains."""
    if not isinstance(norm, nn.SyncBatchNorm) or not norm.training or not dist.is_initialized():
        return None
    group = norm.process_group or dist.group.WORLD
    return group if dist.get_world_size(group) > 1 else None


def _of_all_ranks(moments: Moments, rows: int, group: dist.ProcessGroup) -> tuple[Moments, Tensor]:
    """The moments of all rows together, and how many these are; the ranks may have different numbers."""
    mine = torch.cat([*moments, moments.mean.new_full((1,), rows)])
    parts = [torch.empty_like(mine) for _ in range(dist.get_world_size(group))]
    dist.all_gather(parts, mine, group=group)
    gathered = torch.stack(parts)
    counts, channels = gathered[:, -1:], len(moments.mean)
    means, squares = gathered[:, :channels], gathered[:, channels:-1]
    count = counts.sum()
    mean = (means * (counts / count)).sum(0)
    together = (squares + counts * (means - mean).square()).sum(0)
    return Moments(mean, together), count
