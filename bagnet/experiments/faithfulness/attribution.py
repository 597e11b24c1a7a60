"""How important each pixel is for a network's decision, by the methods that experiments compare.

* evidence: a BagNet's own, around every pixel (`bagnet.dense_evidence`).
* pixel_evidence: a BagNet's own, each patch's spread over its pixels (`bagnet.pixel_evidence`).
* saliency: the magnitude of the gradient.
* gradient_x_input: their product. It is what epsilon-LRP is in DeepExplain, which the paper's
  authors used and which changes the gradients of ReLUs only, up to its epsilon.
* deeplift: the rescale rule, from ImageNet's mean colour (`faithfulness/deeplift.py`).
* integrated_gradients: from ImageNet's mean colour; its sum misses the difference of the logits by
  an error that falls with --integration_steps.
* smoothgrad: the mean of 16 saliencies, with noise of 15 percent of the range of the image's values
  (Smilkov et al. 2017).
* gradcam: the positive part at the end of the convolutions, after the last ReLU, enlarged
  bilinearly.
* random: the baseline, a new order for each image.

Saliency, Integrated Gradients, SmoothGrad and Grad-CAM are Captum's.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from captum.attr import (
    InputXGradient,
    IntegratedGradients,
    LayerGradCam,
    NoiseTunnel,
    Saliency,
)
from torch import Tensor, nn
from torch.nn import functional as F

from bagnet.evidence.explainer import BagNetExplainer
from bagnet.evidence.maps import require_bagnet
from bagnet.experiments.faithfulness.deeplift import deeplift
from bagnet.experiments.faithfulness.options import Method, Pooling

DRAWS, NOISE = 16, 0.15  # of SmoothGrad


def attribute(
    method: Method,
    model: nn.Module,
    images: Tensor,
    targets: Tensor,
    sample_ids: Tensor,
    seed: int,
    steps: int = 32,
) -> Tensor:
    """The importance of each pixel for one class of each image.

    Args:
        method: The method.
        model: Network that returns logits (B, classes).
        images: Normalized images, float (B, 3, H, W).
        targets: The class of each image, int64 (B,).
        sample_ids: Sample ids, int64 (B,): with the seed, they determine all random numbers.
        seed: Seed of `random` and `smoothgrad`.
        steps: Steps of `integrated_gradients`.

    Returns:
        The importance, summed over the colours, (B, 1, H, W).

    Raises:
        ValueError: Evidence of a network that is not a BagNet, or "gradcam" of one whose last
            feature maps are not known.
    """
    if method in ("evidence", "pixel_evidence"):
        return BagNetExplainer(model, method).explain(images, targets)
    if method == "saliency":
        inputs = images.detach().requires_grad_()
        gradients: Tensor = Saliency(model).attribute(inputs, targets)
        return gradients.sum(1, keepdim=True)
    if method == "gradient_x_input":
        products: Tensor = InputXGradient(model).attribute(images.clone().requires_grad_(), targets)
        return products.detach().sum(1, keepdim=True)
    if method == "deeplift":
        return deeplift(model, images, targets).sum(1, keepdim=True)
    if method == "gradcam":
        gradcam = LayerGradCam(model, last_maps(model))
        maps = gradcam.attribute(images, targets, relu_attributions=True).detach()
        return F.interpolate(maps, images.shape[2:], mode="bilinear")
    # Image by image: random numbers must not depend on the batch, and one image's steps fill it.
    rows = []
    for image, target, sample_id in zip(images[:, None], targets.tolist(), sample_ids, strict=True):
        rng = np.random.default_rng((seed, int(sample_id)))
        if method == "random":
            scores = torch.from_numpy(rng.random((1, 1, *images.shape[2:]), np.float32)).to(images)
        elif method == "smoothgrad":
            noise = NOISE * float(image.max() - image.min())
            gpus = [image.device] if image.device.type == "cuda" else []
            with torch.random.fork_rng(gpus):  # Captum draws from the global generator
                torch.manual_seed(int(rng.integers(2**63)))
                scores = NoiseTunnel(Saliency(model)).attribute(
                    image, nt_samples=DRAWS, stdevs=noise, target=target
                )
        else:
            integrated = IntegratedGradients(model)
            scores = integrated.attribute(image, target=target, n_steps=steps)
        rows.append(scores.sum(1, keepdim=True))
    return torch.cat(rows).detach()


def check_methods(methods: Sequence[Method], model: nn.Module) -> None:
    """Raise a ValueError if a method cannot explain a model; see `attribute`."""
    if {"evidence", "pixel_evidence"} & set(methods):
        require_bagnet(model)
    if "gradcam" in methods:
        last_maps(model)


def last_maps(model: nn.Module) -> nn.Module:
    """The module whose output is the network's last feature maps, after their ReLU.

    A DenseNet calls its last ReLU as a function. It gets one as a module, too, where hooks find it;
    the network computes the same.

    Raises:
        ValueError: The network is none of those in `bagnet.model.registry`.
    """
    for name in ("layer4", "features"):  # ResNet and BagNet; VGG, DenseNet and AlexNet
        if isinstance(module := getattr(model, name, None), nn.Sequential):
            if isinstance(module[-1], nn.BatchNorm2d):
                # Not nn.ReLU, which keeps its output, and the function changes that in place.
                module.append(nn.Threshold(0.0, 0.0))
            return module
    raise ValueError(
        f"Grad-CAM needs the last feature maps, and those of {type(model).__name__} are not known: "
        "leave gradcam out of --methods"
    )


def by_cell(scores: Tensor, cell: int, pooling: Pooling) -> Tensor:
    """The importance of each cell, whose pixels are pooled; the last ones may be cut off.

    (B, 1, H, W) -> (B, ceil(H / cell), ceil(W / cell)). "absolute" is the mean of the magnitudes.
    """
    if pooling == "max":
        return F.max_pool2d(scores, cell, ceil_mode=True)[:, 0]
    if pooling == "absolute":
        scores = scores.abs()
    return F.avg_pool2d(scores, cell, ceil_mode=True)[:, 0]
