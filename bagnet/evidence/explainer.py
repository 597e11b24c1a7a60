"""Dense evidence in the shape that attribution benchmarks and users of Captum expect."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from bagnet.evidence.dense import dense_evidence
from bagnet.evidence.maps import require_bagnet
from bagnet.model.images import require_images
from bagnet.model.network import BagNet


class BagNetExplainer:
    """Explains the decisions of a BagNet by its evidence around every pixel (`dense_evidence`).

    Args:
        model: A BagNet.

    Raises:
        ValueError: The network is not a BagNet.

    Example:
        >>> explainer = BagNetExplainer(BagNet(9, num_classes=10, width=4))
        >>> explainer.explain(torch.zeros(2, 3, 41, 41), targets=[7, 3]).shape
        torch.Size([2, 1, 41, 41])
    """

    def __init__(self, model: nn.Module) -> None:
        self.model: BagNet = require_bagnet(model)

    def explain(self, images: Tensor, targets: int | Sequence[int] | Tensor) -> Tensor:
        """Compute the evidence for one class of each image.

        Args:
            images: Normalised images, float (B, 3, H, W).
            targets: The class of each image, (B,), or one class for all of them.

        Returns:
            The evidence in logits, (B, 1, H, W).

        Raises:
            ValueError: There is not one class for each image, or as in `dense_evidence`.
        """
        require_images(images, self.model.in_channels)
        classes = torch.as_tensor(targets)
        if classes.ndim == 0:
            classes = classes.expand(len(images))
        if classes.shape != images.shape[:1]:
            raise ValueError(
                f"targets of shape {tuple(classes.shape)} for {len(images)} images: give one class "
                "for each, or one for all"
            )
        maps = [
            dense_evidence(self.model, image, int(label))
            for image, label in zip(images, classes.tolist(), strict=True)
        ]
        return torch.stack(maps)[:, None]

    def attribute(self, inputs: Tensor, target: int | Sequence[int] | Tensor) -> Tensor:
        """Call `explain` under the name and with the arguments of Captum's methods."""
        return self.explain(inputs, target)
