"""Evidence in the shape that attribution benchmarks and users of Captum and Quantus expect."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Literal, ParamSpec, TypeVar

import numpy as np
import torch
from torch import Tensor, nn

from bagnet.evidence.dense import dense_evidence
from bagnet.evidence.maps import pixel_evidence, require_bagnet
from bagnet.model.images import require_images
from bagnet.model.network import BagNet

Arguments = ParamSpec("Arguments")
Result = TypeVar("Result")
Target = int | Sequence[int] | Tensor | None
Method = Literal["evidence", "pixel_evidence"]
_MAPS = {"evidence": dense_evidence, "pixel_evidence": pixel_evidence}


def _wrapped(method: Callable[Arguments, Result]) -> Callable[Arguments, Result]:
    """Captum's methods have a decorator, and its NoiseTunnel calls what is inside."""

    @functools.wraps(method)
    def call(*arguments: Arguments.args, **keywords: Arguments.kwargs) -> Result:
        return method(*arguments, **keywords)

    return call


class BagNetExplainer:
    """Explains the decisions of a BagNet by its evidence.

    It can be called like Captum's methods, also within its `NoiseTunnel`, and as `explain(input,
    target)`, like the explainers of the benchmarks FunnyBirds and IDSDS (Hesse et al. 2023, 2024).

    Args:
        model: A BagNet.
        method: "evidence" is that around every pixel (`dense_evidence`), "pixel_evidence" each
            pixel's share in the logit.

    Raises:
        ValueError: The network is not a BagNet, or there is no such method.

    Attributes:
        forward_func: The network, under Captum's name.
        multiplies_by_inputs: As in Captum: whether attributions are products with the input.

    Examples:
        >>> explainer = BagNetExplainer(BagNet(9, num_classes=10, width=4))
        >>> explainer.explain(torch.zeros(2, 3, 41, 41), target=[7, 3]).shape
        torch.Size([2, 1, 41, 41])
    """

    multiplies_by_inputs = False

    def __init__(self, model: nn.Module, method: Method = "evidence") -> None:
        if method not in _MAPS:
            raise ValueError(f"there is no method {method!r}: choose from {', '.join(_MAPS)}")
        self.model: BagNet = require_bagnet(model)
        self.method = method
        self.forward_func = self.model

    def explain(self, input: Tensor, target: Target = None) -> Tensor:
        """Compute the evidence for one class of each image.

        Args:
            input: Normalised images, float (B, 3, H, W).
            target: The class of each image, (B,), or one class for all of them; None for the class
                that the network chooses.

        Returns:
            The evidence in logits, (B, 1, H, W).

        Raises:
            ValueError: There is not one class for each image, or as in the method's function.
        """
        require_images(input, self.model.in_channels)
        if target is None:
            with torch.no_grad():
                target = self.model(input).argmax(1)
        classes = torch.as_tensor(target)
        if classes.ndim == 0:
            classes = classes.expand(len(input))
        if classes.shape != input.shape[:1]:
            raise ValueError(
                f"target of shape {tuple(classes.shape)} for {len(input)} images: give one class "
                "for each, or one for all"
            )
        maps = [
            _MAPS[self.method](self.model, image, int(label))
            for image, label in zip(input, classes.tolist(), strict=True)
        ]
        return torch.stack(maps)[:, None]

    @_wrapped
    def attribute(self, inputs: Tensor, target: Target = None) -> Tensor:
        """Call `explain` under Captum's name."""
        return self.explain(inputs, target)

    def has_convergence_delta(self) -> bool:
        """As in Captum: whether the sum of the attributions is compared with the logit."""
        return False


def quantus_explain(
    model: nn.Module,
    inputs: np.ndarray,
    targets: np.ndarray,
    *,
    method: Method = "evidence",
    device: object = None,
) -> np.ndarray:
    """Explain the decisions of a BagNet as Quantus's metrics ask for it: their `explain_func`.

    Args:
        model: A BagNet.
        inputs: Normalised images, float (B, 3, H, W).
        targets: The class of each image, int (B,).
        method: As in `BagNetExplainer`; Quantus passes `explain_func_kwargs={"method": ...}` on.
        device: Quantus gives its own, which is not used: that of the network is.

    Returns:
        The evidence in logits, (B, 1, H, W).

    Raises:
        ValueError: As in `BagNetExplainer`.

    Examples:
        >>> model = BagNet(9, num_classes=10, width=4)
        >>> quantus_explain(model, np.zeros((2, 3, 41, 41)), np.array([7, 3])).shape
        (2, 1, 41, 41)
    """
    explainer = BagNetExplainer(model, method)
    maps: np.ndarray = explainer.explain(torch.tensor(inputs), torch.tensor(targets)).cpu().numpy()
    return maps
