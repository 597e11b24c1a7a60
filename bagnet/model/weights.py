"""Reads and writes weights: safetensors, the authors' files, and those in our checkpoints."""

from __future__ import annotations

import pickle
import warnings
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save
from torch import Tensor, nn

from bagnet.model.registry import ORIGINAL_WIDTH, build_model
from datamodules.common.files import replacing, user_path


def load_weights(path: str | Path) -> dict[str, Tensor]:
    """Read weights onto the CPU, under the names in the network's own state dict.

    Args:
        path: A `.safetensors` file, or a file written by `torch.save`: a state dict, a dict that
            has one as `state_dict` (the authors' `.pth.tar`), or one of our checkpoints, from which
            only the keys `model.*` are read. The prefixes `module.` (DataParallel) and `_orig_mod.`
            (torch.compile) are removed.

    Raises:
        ValueError: The file does not exist, is not a file of weights, is incomplete, or contains
            Python objects, which are never unpickled.
    """
    return _weights(_read(user_path(path)), path)


def load_model(
    path: str | Path,
    name: str | None = None,
    num_classes: int | None = None,
    width: int | None = None,
) -> nn.Module:
    """Load a trained network from a file, on the CPU and in evaluation mode.

    `bagnet.load` is this function. It warns about nearly dead layers, as in the authors' BagNet-33:
    such a network loses accuracy in lower precision.

    Args:
        path: One of our checkpoints, the authors' `.pth.tar`, or a `.safetensors` or `.pth` file of
            weights; see `load_weights`.
        name: Name of the network, one of `bagnet.model.registry.MODELS`. Only our checkpoints
            contain it; for other files it must be given.
        num_classes: Number of classes; by default, the checkpoint's or that of the last layer.
        width: Channels of the first convolution; by default, the checkpoint's or that of the first
            layer.

    Returns:
        The network; a `BagNet` for `bagnet9`, `bagnet17` and `bagnet33`.

    Raises:
        ValueError: As in `load_weights`; or the network's name is unknown; or the weights are from
            another network.

    Example:
        >>> import tempfile
        >>> from bagnet.model.network import BagNet
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     save_weights(BagNet(9, num_classes=10, width=4), f"{folder}/tiny.safetensors")
        ...     model = load_model(f"{folder}/tiny.safetensors", name="bagnet9")
        >>> model.receptive_field, model.fc.out_features, model.training
        (9, 10, False)
    """
    content = _read(user_path(path))
    weights = _weights(content, path)
    settings = content.get("hyper_parameters") or {}
    name = name or settings.get("name")
    if name is None:
        raise ValueError(
            f"{path} does not say which network it is for: give its name, such as name='bagnet33'"
        )
    # In our checkpoints a setting may be None if the data decided it.
    num_classes = num_classes or settings.get("num_classes") or _num_classes(weights, name, path)
    width = width or settings.get("width") or _width(weights, name)
    model = build_model(name, num_classes, width)
    _check_same_network(
        weights, model, f"{path} does not fit {name} with {num_classes} classes and width {width}"
    )
    model.load_state_dict(weights)
    if dead := dead_layers(model):
        warnings.warn(
            f"{path} has nearly dead layers, with no weight above 1e-6: {_some(dead)}. Such "
            "networks lose accuracy in lower precision: evaluate this one in float32 without TF32",
            stacklevel=2,
        )
    return model.eval()


def save_weights(model: nn.Module, path: str | Path) -> None:
    """Write a network's state dict; the file appears complete or not at all.

    Args:
        model: The network; the prefixes of compiled and parallel modules are removed.
        path: A file whose suffix is `.safetensors` or `.pth`.

    Raises:
        ValueError: The suffix is another one.
    """
    path = user_path(path)
    if path.suffix not in (".safetensors", ".pth"):
        raise ValueError(f"cannot write weights to {path}: the suffix must be .safetensors or .pth")
    # safetensors takes contiguous tensors only, and channels_last ones are not.
    weights = {
        _clean(key): tensor.detach().cpu().contiguous()
        for key, tensor in model.state_dict().items()
    }
    with replacing(path) as unfinished:
        if path.suffix == ".pth":
            torch.save(weights, unfinished)
        else:
            unfinished.write_bytes(save(weights))  # `save_file` ignores the umask


def dead_layers(model: nn.Module, threshold: float = 1e-6) -> list[str]:
    """List the weight tensors (not biases) whose absolute values are all below `threshold`.

    The authors' BagNet-33 has such layers, with values of about 1e-7. Its measured top-1 is 66.7%
    in float32, 64.2% under TF32 and 58.0% in float16.
    """
    return [
        name
        for name, weight in model.named_parameters()
        if name.endswith("weight") and weight.detach().abs().max().item() < threshold
    ]


def _read(path: Path) -> dict[str, Any]:
    """Read the dict in a file: weights, or weights and more."""
    if not path.is_file():
        raise ValueError(f"there is no checkpoint {path}: give the path of a file of weights")
    try:
        if path.suffix == ".safetensors":
            return load_file(path)
        content = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # broken files can raise anything
        objects = _python_objects(path) if isinstance(error, pickle.UnpicklingError) else []
        if objects:
            raise ValueError(
                f"{path} holds Python objects ({_some(objects)}), and loading those can run any "
                "code: if you trust the file, save its state dict alone and load that"
            ) from error
        reason = (str(error) or type(error).__name__).splitlines()[0][:120]
        raise ValueError(
            f"{path} is not a checkpoint, or it is incomplete ({reason}): copy or download it again"
        ) from error
    if not isinstance(content, dict):
        raise ValueError(f"{path} holds a {type(content).__name__}, not a dict of weights")
    return content


def _python_objects(path: Path) -> list[str]:
    """List the classes and functions in a file that `weights_only` refuses to import."""
    try:
        return torch.serialization.get_unsafe_globals_in_checkpoint(path)
    except Exception:  # not an archive, so there is nothing to list
        return []


def _weights(content: dict[str, Any], path: str | Path) -> dict[str, Tensor]:
    state = content.get("state_dict", content)
    weights = (
        {_clean(key): value for key, value in state.items() if isinstance(value, Tensor)}
        if isinstance(state, dict)
        else {}
    )
    # Our checkpoints also contain metrics.
    ours = {key: value for key, value in weights.items() if key.startswith("model.")}
    if ours:
        weights = {_clean(key.removeprefix("model.")): value for key, value in ours.items()}
    if not weights:
        raise ValueError(f"{path} holds no weights: neither a state dict nor a checkpoint with one")
    return weights


def _clean(key: str) -> str:
    """Remove wrappers' prefixes from a key; that of a compiled inner module is in its middle."""
    return key.replace("_orig_mod.", "").removeprefix("module.")


def _num_classes(weights: dict[str, Tensor], name: str, path: str | Path) -> int:
    last = _layers(name, nn.Linear)[-1] + ".weight"
    if last not in weights:
        raise ValueError(f"{path} is not a {name}: it has no {last}, but {_some(weights)}")
    return weights[last].shape[0]


def _width(weights: dict[str, Tensor], name: str) -> int:
    first = _layers(name, nn.Conv2d)[0] + ".weight"
    return weights[first].shape[0] if first in weights else ORIGINAL_WIDTH


def _layers(name: str, kind: type[nn.Module]) -> list[str]:
    """Names of all layers of one kind, in the network's order."""
    with torch.device("meta"):
        return [key for key, layer in build_model(name).named_modules() if isinstance(layer, kind)]


def _check_same_network(weights: dict[str, Tensor], model: nn.Module, message: str) -> None:
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
        f"{what} {_some(names)}"
        for what, names in (
            ("it lacks", sorted(missing)),
            ("it has unknown", sorted(unexpected)),
            ("it has", shapes),
        )
        if names
    ]
    if faults:
        raise ValueError(f"{message}: {'; '.join(faults)}")


def _some(names: Iterable[str]) -> str:
    """The first three names, and how many more there are."""
    names = list(names)
    return ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")
