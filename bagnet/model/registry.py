"""Networks by name: the BagNets, and the torchvision networks that the paper compares them with."""

from __future__ import annotations

import re
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from bagnet.model.images import IMAGENET_MEAN, IMAGENET_STD
from bagnet.model.network import BLOCKS_3X3, BagNet

BAGNETS = {f"bagnet{patch}": patch for patch in BLOCKS_3X3}
_ANY_BAGNET = re.compile(r"bagnet-(\d+)-(\d+)-(\d+)-(\d+)")
TORCHVISION = ("alexnet", "vgg11", "vgg16", "vgg19", "resnet50", "resnet152", "densenet169")
MODELS = (*BAGNETS, *TORCHVISION)
ORIGINAL_WIDTH = 64
"""Channels of the first convolution in all these networks."""


def is_model(name: str) -> bool:
    """Whether `build_model` knows the name."""
    return name in MODELS or _ANY_BAGNET.fullmatch(name) is not None


def build_model(name: str, num_classes: int = 1000, width: int = 64) -> nn.Module:
    """Build a network with fresh weights.

    `bagnet.create_model` is this function.

    Args:
        name: One of `MODELS`, or a BagNet of another receptive field: `bagnet-2-2-1-0` has two
            3x3 convolutions in its first stage, two in its second, and so on.
        num_classes: Number of classes.
        width: Channels of the first convolution, 64 in the original. All other layers scale with
            it, so a width of 16 gives a quarter of the channels everywhere.

    Raises:
        ValueError: `name` is unknown, or the network cannot have this `width`.

    Examples:
        >>> build_model("bagnet17", num_classes=10, width=4).receptive_field
        17
    """
    if name in BAGNETS:
        return BagNet(BAGNETS[name], num_classes, width)
    if match := _ANY_BAGNET.fullmatch(name):
        first, second, third, fourth = map(int, match.groups())
        return BagNet(None, num_classes, width, blocks3x3=(first, second, third, fourth))
    if name not in TORCHVISION:
        raise ValueError(
            f"there is no model {name!r}: choose one of {', '.join(MODELS)}, or a BagNet by the "
            "3x3 convolutions of its stages, such as bagnet-2-2-1-0"
        )
    narrowest = 2 if name == "densenet169" else 1  # its layers add width / 2 channels each
    if not 0 < width <= ORIGINAL_WIDTH or width % narrowest:
        even = "even " * (narrowest == 2)
        raise ValueError(f"width={width}: {name} comes in {even}widths of {narrowest} to 64")
    from torchvision.models import get_model  # takes a second, and BagNets do not need it

    model: nn.Module = get_model(name, weights=None, num_classes=num_classes)
    if width != ORIGINAL_WIDTH:
        _narrow(model, width)
    return model


def classifier_of(model: nn.Module) -> nn.Linear:
    """The classifier of a network of ours, which is its last linear layer.

    Raises:
        ValueError: It has none.
    """
    layers = [layer for layer in model.modules() if isinstance(layer, nn.Linear)]
    if not layers:
        raise ValueError("the network has no classifier: give it one (reset_classifier)")
    return layers[-1]


@torch.no_grad()
def _narrow(model: nn.Module, width: int) -> None:
    """Keep the first `width` of every 64 channels, except in the image and the logits.

    torchvision's constructors cannot do this. The weights stay as torchvision initialises them,
    times the square root of the factor by which a layer lost inputs, so that signals keep their
    size.
    """
    kinds = nn.Conv2d | nn.Linear
    image, *_, logits = (layer for layer in model.modules() if isinstance(layer, kinds))
    for layer in model.modules():
        if isinstance(layer, nn.BatchNorm2d):
            layer.num_features = layer.num_features * width // ORIGINAL_WIDTH
            for key, value in layer.state_dict(keep_vars=True).items():
                if value.ndim:  # not the counter of batches
                    narrow = value[: layer.num_features].clone()
                    is_weight = isinstance(value, nn.Parameter)
                    setattr(layer, key, nn.Parameter(narrow) if is_weight else narrow)
        elif isinstance(layer, kinds):
            outputs, inputs = layer.weight.shape[:2]
            kept = outputs if layer is logits else outputs * width // ORIGINAL_WIDTH
            fed = inputs if layer is image else inputs * width // ORIGINAL_WIDTH
            scale = (inputs / fed) ** 0.5
            layer.weight = nn.Parameter(layer.weight[:kept, :fed] * scale)
            if layer.bias is not None:
                layer.bias = nn.Parameter(layer.bias[:kept] * scale)
            if isinstance(layer, nn.Conv2d):
                layer.in_channels, layer.out_channels = fed, kept
            else:
                layer.in_features, layer.out_features = fed, kept


def normalize(images: Tensor, dtype: torch.dtype = torch.float32) -> Tensor:
    """Normalise images by ImageNet's mean and standard deviation.

    `bagnet.normalize` is this function. It runs on the images' device, keeps their memory format,
    and computes in at least float32.

    Args:
        images: RGB images, uint8 (B, 3, H, W).
        dtype: Type of the result.

    Raises:
        ValueError: The images have another type or shape.

    Examples:
        >>> normalize(torch.full((1, 3, 1, 1), 255, dtype=torch.uint8)).flatten()
        tensor([2.2489, 2.4286, 2.6400])
    """
    if not isinstance(images, Tensor):
        raise ValueError(
            f"normalize takes uint8 images (B, 3, H, W), not a {type(images).__name__}: convert it "
            "(torchvision.transforms.v2.functional.pil_to_tensor(image)[None])"
        )
    if images.dtype != torch.uint8 or images.ndim != 4 or images.shape[1] != 3:
        raise ValueError(
            f"normalize takes uint8 images (B, 3, H, W), not {images.dtype} {tuple(images.shape)}: "
            "pass the pixels as they were read, also of one image as a batch (image[None])"
        )
    exact = torch.promote_types(dtype, torch.float32)
    mean, std = (
        _per_channel(values, exact, images.device) for values in (IMAGENET_MEAN, IMAGENET_STD)
    )
    return images.to(exact).sub_(mean).div_(std).to(dtype)


def _per_channel(values: Sequence[float], dtype: torch.dtype, device: torch.device) -> Tensor:
    """Scale values for pixels from 0 to 255, (3, 1, 1).

    They are created on the device because a CUDA graph cannot contain a copy from the host.
    """
    channels = [torch.full((1, 1), value, dtype=dtype, device=device) for value in values]
    return torch.stack(channels).mul_(255)
