"""One of two processes whose nn.SyncBatchNorm runs on the kernels: ``python rank.py RANK MEETING``.

The ranks have batches of different sizes. Together they must be one plain network with all images.
"""

from __future__ import annotations

import copy
import sys

import torch
import torch.distributed as dist
from torch import Tensor, nn

from bagnet.kernels import fuse
from tests.bagnet.kernels.checks.reference import DEVICE, check, random, small_bagnet

PARTS = (slice(0, 1), slice(1, 3))


def main(rank: int, meeting: str) -> None:
    dist.init_process_group("gloo", f"file://{meeting}", rank=rank, world_size=len(PARTS))
    plain = small_bagnet(blocks=1)
    mine = nn.SyncBatchNorm.convert_sync_batchnorm(copy.deepcopy(plain))
    fuse(mine, DEVICE)
    plain = plain.double()

    images, directions = random(3, 3, 17, 20), random(3, 5)
    part = images[PARTS[rank]].clone().requires_grad_()
    logits = mine(part)
    (logits * directions[PARTS[rank]]).sum().backward()
    for parameter in mine.parameters():
        assert parameter.grad is not None
        dist.all_reduce(parameter.grad)

    whole = images.double().requires_grad_()
    expected = plain(whole)
    (expected * directions.double()).sum().backward()
    assert part.grad is not None
    assert whole.grad is not None
    pairs: list[tuple[str, Tensor, Tensor]] = [
        ("logits", logits, expected[PARTS[rank]]),
        ("pixels", part.grad, whole.grad[PARTS[rank]]),
    ]
    for (name, found), right in zip(mine.named_parameters(), plain.parameters(), strict=True):
        assert found.grad is not None
        assert right.grad is not None
        pairs.append((name, found.grad, right.grad))
    for (name, found), (other, right) in zip(
        mine.named_buffers(), plain.named_buffers(), strict=True
    ):
        assert name == other
        pairs.append((name, found, right))
    check(pairs, torch.float32, least=1e-3)
    dist.destroy_process_group()
    print("like one")


if __name__ == "__main__":
    main(int(sys.argv[1]), sys.argv[2])
