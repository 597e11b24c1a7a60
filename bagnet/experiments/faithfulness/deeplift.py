"""DeepLIFT's rescale rule (Shrikumar et al., ICML 2017, section 3.5.1) for any network of ours.

A layer that is not linear passes on the slope between its two inputs, for the image and for the
baseline, instead of its gradient. So the attributions of all pixels sum to the difference of the
two logits. Layers in max pooling share a difference as in SHAP's and Captum's code.

Captum replaces modules: it does not see the ReLU that a DenseNet calls as a function, and refuses
a network that calls one module twice, as torchvision's ResNets do. Here the functions themselves
are replaced while the network runs, wherever they are called from.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode

RELU = {F.relu, F.relu_, torch.relu, torch.relu_, Tensor.relu, Tensor.relu_}
MAX_POOL = {F.max_pool2d, F.max_pool2d_with_indices, torch.max_pool2d}


def deeplift(model: nn.Module, images: Tensor, targets: Tensor) -> Tensor:
    """Attribute the logit of a class to pixels, against ImageNet's mean colour as the baseline.

    Args:
        model: Network in evaluation mode that returns logits (B, classes). Besides ReLUs and max
            pooling, its layers must be linear, as those of BagNets, ResNets, DenseNets, VGGs and
            AlexNet are.
        images: Normalised images, float (B, 3, H, W).
        targets: The class of each image, int64 (B,).

    Returns:
        Attributions in logits, (B, 3, H, W). Those of an image sum to its logit minus that of the
        baseline.
    """
    inputs = images.detach().requires_grad_()
    with _Rescaling():
        logits = model(torch.cat((inputs, torch.zeros_like(inputs))))
    (slopes,) = torch.autograd.grad(logits[range(len(images)), targets].sum(), inputs)
    return slopes * images  # the baseline is 0


class _Rescaling(TorchFunctionMode):
    """Replaces ReLU and max pooling; the batch is the images, and then their baselines."""

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Sequence[type],
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        kwargs = dict(kwargs or {})
        if func in RELU:
            return _ReLU.apply(args[0])
        if func in MAX_POOL:
            kwargs.pop("return_indices", None)
            return _MaxPool.apply(args[0], args[1:], kwargs)
        return func(*args, **kwargs)


class _ReLU(torch.autograd.Function):
    @staticmethod
    def forward(context: Any, x: Tensor) -> Tensor:
        context.save_for_backward(x)
        return x.clamp(min=0)

    @staticmethod
    def backward(context: Any, *gradients: Tensor) -> Tensor:
        (x,) = context.saved_tensors
        image, baseline = x.chunk(2)
        change = image - baseline
        slope = (image.clamp(min=0) - baseline.clamp(min=0)) / change
        slope = torch.where(change == 0, (image > 0).to(x), slope)
        return _for_images(gradients[0].chunk(2)[0] * slope)


class _MaxPool(torch.autograd.Function):
    @staticmethod
    def forward(context: Any, x: Tensor, where: Sequence[Any], how: Mapping[str, Any]) -> Tensor:
        pooled, indices = F.max_pool2d(x, *where, **how, return_indices=True)
        context.save_for_backward(x, pooled, indices)
        return pooled

    @staticmethod
    def backward(context: Any, *gradients: Tensor) -> tuple[Tensor, None, None]:
        x, pooled, indices = context.saved_tensors
        (image, baseline), (largest, before) = x.chunk(2), pooled.chunk(2)
        gradient, top = gradients[0].chunk(2)[0], torch.maximum(largest, before)
        # A rise of the maximum belongs to the pixel that it is now, a fall to the one that it was.
        of_image, of_baseline = indices.chunk(2)
        # Where the baseline is even, as this one is inside of images, it could be any of them.
        same = baseline.flatten(2).gather(2, of_image.flatten(2)).view_as(before)
        of_baseline = torch.where(same == before, of_image, of_baseline)
        shares = _unpooled(image, of_image, gradient * (top - before))
        shares += _unpooled(image, of_baseline, gradient * (largest - top))
        change = image - baseline
        plain = _unpooled(image, of_image, gradient)
        return _for_images(torch.where(change == 0, plain, shares / change)), None, None


def _unpooled(x: Tensor, indices: Tensor, values: Tensor) -> Tensor:
    """Add values at their indices to zeros of the shape of x; pools may overlap."""
    zeros = torch.zeros_like(x).flatten(2)
    return zeros.scatter_add_(2, indices.flatten(2), values.flatten(2)).view_as(x)


def _for_images(gradient: Tensor) -> Tensor:
    """The gradient of a whole batch, of which that of the baselines is not wanted."""
    return torch.cat((gradient, torch.zeros_like(gradient)))
