"""The check of what was written: it computes what the network computes."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from bagnet.export.graphs import Network

TOLERANCE = 1e-4
"""The largest difference of an output that is rounding, as a share of the largest output."""


@torch.inference_mode()
def largest_difference(
    ours: Network, theirs: Network, shapes: Sequence[tuple[int, int, int]]
) -> float:
    """Compare all outputs on images of noise.

    Args:
        ours: The network.
        theirs: What was written.
        shapes: Number, height and width of images.

    Returns:
        The largest difference, as a share of the largest output.

    Raises:
        ValueError: It is more than rounding.
    """
    shares = []
    generator = torch.Generator().manual_seed(0)
    for count, height, width in shapes:
        images = torch.randn(count, 3, height, width, generator=generator)
        for own, other in zip(ours(images), theirs(images), strict=True):
            largest = own.abs().max().clamp(min=torch.finfo(own.dtype).tiny)
            is_same = own.shape == other.shape
            shares.append(float((own - other).abs().max() / largest) if is_same else torch.inf)
            if not shares[-1] <= TOLERANCE:
                raise ValueError(
                    "what was written is removed, because it computes something else than the "
                    f"network: on images {tuple(images.shape)}, an output differs by "
                    f"{shares[-1]:.1e} of the largest"
                )
    return max(shares)
