"""Build a network by name: the BagNets, and the torchvision networks the paper compares."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from bagnet.network import BagNet

BAGNETS = {"bagnet9": 9, "bagnet17": 17, "bagnet33": 33}
TORCHVISION = ("alexnet", "vgg11", "vgg16", "resnet50", "resnet152", "densenet169")
MODELS = (*BAGNETS, *TORCHVISION)

IMAGENET_MEAN = (0.485, 0.456, 0.406)  # RGB, for values in [0, 1]
IMAGENET_STD = (0.229, 0.224, 0.225)


def build_model(name: str, num_classes: int = 1000, width: int = 64) -> nn.Module:
    """Build a network with fresh weights.

    Args:
        name: one of `MODELS`.
        num_classes: length of the logits.
        width: channels of a BagNet's stem; 64, the original, for all others.

    Raises:
        ValueError: unknown `name`, or a `width` that this network does not come in.
    """
    if name in BAGNETS:
        return BagNet(BAGNETS[name], num_classes, width)
    if name not in TORCHVISION:
        raise ValueError(f"there is no model {name!r}: choose one of {', '.join(MODELS)}")
    if width != 64:
        raise ValueError(
            f"width={width}: only BagNets come in other widths than 64, {name} does not"
        )
    from torchvision.models import get_model  # takes a second, and the BagNets do without

    return get_model(name, weights=None, num_classes=num_classes)


def normalize(images: Tensor, dtype: torch.dtype = torch.float32) -> Tensor:
    """Scale uint8 RGB images (B, 3, H, W) by ImageNet's mean and standard deviation.

    It runs on the images' device and keeps their memory format. The arithmetic is in float32 or
    better, whatever `dtype` is asked for.

    Raises:
        ValueError: the images are not uint8, or not of that shape.
    """
    if images.dtype != torch.uint8 or images.ndim != 4 or images.shape[1] != 3:
        raise ValueError(
            f"normalize takes uint8 images (B, 3, H, W), not {images.dtype} {tuple(images.shape)}: "
            f"pass the pixels as the loader gives them"
        )
    exact = torch.promote_types(dtype, torch.float32)
    # non_blocking: copying these few numbers must not make the host wait for the GPU in every step.
    constants = torch.tensor((IMAGENET_MEAN, IMAGENET_STD), dtype=exact).mul_(255)
    mean, std = constants.view(2, 3, 1, 1).to(images.device, non_blocking=True)
    return images.to(exact).sub_(mean).div_(std).to(dtype)
