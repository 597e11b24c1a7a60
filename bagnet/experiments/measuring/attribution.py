"""How important each pixel is to a network, by the methods that ``sensitivity.py`` compares.

They are Captum's:

* saliency: the magnitude of the gradient.
* integrated_gradients: from the mean colour of ImageNet, in 32 steps.
* smoothgrad: the mean of 16 saliencies, under noise of 15 percent of the range of the image's values (Smilkov et al. 2017).
* gradcam: at the end of the convolutions, its positive part, enlarged bilinearly.

And random says nothing: it is what the others have to be better than.
"""

from __future__ import annotations

import numpy as np
import torch
from captum.attr import IntegratedGradients, LayerGradCam, NoiseTunnel, Saliency
from torch import Tensor, nn
from torch.nn import functional as F

STEPS = 32  # of Integrated Gradients
DRAWS, NOISE = 16, 0.15  # of SmoothGrad


def attribute(
    method: str, model: nn.Module, images: Tensor, targets: Tensor, sample_ids: Tensor, seed: int
) -> Tensor:
    """The importance of each pixel for one class of each image.

    What is drawn at random comes from the seed and the sample ids.

    Args:
        method: One of ``METHODS``, but not "evidence".
        model: Gives logits (B, classes).
        images: Normalised, float (B, 3, H, W).
        targets: The class of each image, int64 (B,).
        sample_ids: int64 (B,).
        seed: Of random and smoothgrad.

    Returns:
        (B, 1, H, W), summed over the colours.

    Raises:
        ValueError: "gradcam" for a network whose last feature maps are not known.
    """
    if method == "saliency":
        inputs = images.detach().requires_grad_()
        return Saliency(model).attribute(inputs, targets).sum(1, keepdim=True)
    if method == "gradcam":
        gradcam = LayerGradCam(model, last_maps(model))
        maps = gradcam.attribute(images, targets, relu_attributions=True).detach()
        return F.interpolate(maps, images.shape[2:], mode="bilinear")
    # Image by image: what is drawn for one must not depend on its batch, and the steps of one make a batch of their own.
    rows = []
    for image, target, sample_id in zip(images.split(1), targets.tolist(), sample_ids, strict=True):
        chance = np.random.default_rng((seed, int(sample_id)))
        if method == "random":
            scores = torch.from_numpy(chance.random((1, 1, *images.shape[2:]), np.float32))
            rows.append(scores.to(images))
        elif method == "smoothgrad":
            rows.append(smoothgrad(model, image, target, int(chance.integers(2**63))))
        else:
            gradients = IntegratedGradients(model)
            path = gradients.attribute(image, target=target, n_steps=STEPS)
            rows.append(path.sum(1, keepdim=True))
    return torch.cat(rows).detach()


def smoothgrad(model: nn.Module, image: Tensor, target: int, seed: int) -> Tensor:
    """SmoothGrad of one normalised image (1, 3, H, W) for a class -> (1, 1, H, W)."""
    spread = NOISE * float(image.max() - image.min())
    devices = [image.device] if image.device.type == "cuda" else []
    with torch.random.fork_rng(devices):  # Captum draws from the global generator
        torch.manual_seed(seed)
        gradient = NoiseTunnel(Saliency(model)).attribute(
            image, nt_samples=DRAWS, stdevs=spread, target=target
        )
    return gradient.sum(1, keepdim=True)


def last_maps(model: nn.Module) -> nn.Module:
    """The module whose output is the network's last feature maps.

    Raises:
        ValueError: The network is none of those in `bagnet.model.registry`.
    """
    for name in ("layer4", "features"):  # ResNet and BagNet; VGG, DenseNet and AlexNet
        if isinstance(module := getattr(model, name, None), nn.Module):
            return module
    raise ValueError(
        f"the last feature maps of {type(model).__name__} are not known, and Grad-CAM needs them: leave gradcam out "
        "of --methods"
    )


def by_cell(scores: Tensor, cell: int, aggregate: str) -> Tensor:
    """The importance of each cell, those at the right and at the bottom perhaps cut off.

    Args:
        scores: Of each pixel, (B, 1, H, W).
        cell: Its side in pixels.
        aggregate: One of ``AGGREGATES``.

    Returns:
        (B, ceil(H / cell), ceil(W / cell)).
    """
    if aggregate == "max":
        return F.max_pool2d(scores, cell, ceil_mode=True)[:, 0]
    if aggregate == "absolute":
        scores = scores.abs()
    return F.avg_pool2d(scores, cell, ceil_mode=True)[:, 0]
