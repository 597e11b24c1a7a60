"""Which network weights are from: by the names and shapes of its tensors."""

from __future__ import annotations

import functools
import re
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor, nn

from bagnet.model.files import some
from bagnet.model.network import BLOCKS_3X3
from bagnet.model.registry import MODELS, ORIGINAL_WIDTH, TORCHVISION, build_model

Weights = Mapping[str, Tensor]
_PADDED = (
    "is from a BagNet with padded convolutions and one layer less, such as those of bagnetsv2: "
    "only BagNets without padding can be loaded, whose votes are for one patch of the image each"
)
_CONVOLUTION = re.compile(r"layer([1-4])\.\d+\.conv2\.weight")


def recognise(weights: Weights, path: str | Path) -> str:
    """The name of the network that weights are from.

    Args:
        weights: Tensors by their names; only the shapes matter.
        path: Where they come from, for messages.

    Raises:
        ValueError: They are from no network that `build_model` knows.
    """
    for name in (_bagnet(weights), *TORCHVISION):
        try:
            with torch.device("meta"):
                require_same(weights, build_model(name, *sizes(weights, name, path)), name)
        except ValueError:
            continue
        return name
    if _is_padded(weights):
        raise ValueError(f"{path} {_PADDED}")
    raise ValueError(
        f"{path} is from a network that is not known here: it has {some(weights)}; expected the "
        f"weights of one of {', '.join(MODELS)}, with a classifier"
    )


def sizes(weights: Weights, name: str, path: str | Path) -> tuple[int, int]:
    """The number of classes, and the channels of the first convolution.

    Raises:
        ValueError: The weights are from another network.
    """
    first, last = _ends(name)
    if last not in weights or weights[last].ndim != 2:
        raise ValueError(f"{path} is not a {name}: it has no {last}, but {some(weights)}")
    width = len(weights[first]) if first in weights and weights[first].ndim else ORIGINAL_WIDTH
    return len(weights[last]), width


def require_same(weights: Weights, model: nn.Module, message: str) -> None:
    """Make sure that weights are those of a network, by their names and shapes.

    Raises:
        ValueError: They are not: the message, and what is wrong.
    """
    expected = {key: tensor.shape for key, tensor in model.state_dict().items()}
    # Files older than PyTorch 0.4.1 lack this counter, and load_state_dict adds it.
    missing = [key for key in expected.keys() - weights if not key.endswith("num_batches_tracked")]
    unexpected = weights.keys() - expected
    shapes = [
        f"{key} {tuple(weights[key].shape)} instead of {tuple(shape)}"
        for key, shape in expected.items()
        if key in weights and weights[key].shape != shape
    ]
    faults = [
        f"{what} {some(names)}"
        for what, names in (
            ("it lacks", sorted(missing)),
            ("it has unknown", sorted(unexpected)),
            ("it has", shapes),
        )
        if names
    ]
    if _is_padded(weights):
        faults.append(f"it {_PADDED}")
    if faults:
        raise ValueError(f"{message}: {'; '.join(faults)}")


def _is_padded(weights: Weights) -> bool:
    """Whether the stem is one 3x3 convolution of the pixels, as in bagnetsv2."""
    stem = weights.get("conv1.weight", torch.empty(0, device="meta"))
    return (
        "layer1.0.conv2.weight" in weights
        and "conv2.weight" not in weights
        and stem.shape[1:] == (3, 3, 3)
    )


def _bagnet(weights: Weights) -> str:
    """The name of the BagNet that has 3x3 convolutions in the same blocks."""
    counts = [0, 0, 0, 0]
    for key, tensor in weights.items():
        if (found := _CONVOLUTION.fullmatch(key)) and tensor.shape[-1:] == (3,):
            counts[int(found[1]) - 1] += 1
    for patch, blocks in BLOCKS_3X3.items():
        if list(blocks) == counts:
            return f"bagnet{patch}"
    return "bagnet-" + "-".join(map(str, counts))


@functools.cache
def _ends(name: str) -> tuple[str, str]:
    """The names of the weights of a network's first convolution and of its classifier."""
    with torch.device("meta"):
        layers = list(build_model(name).named_modules())
    first = next(key for key, layer in layers if isinstance(layer, nn.Conv2d))
    last = [key for key, layer in layers if isinstance(layer, nn.Linear)][-1]
    return f"{first}.weight", f"{last}.weight"
