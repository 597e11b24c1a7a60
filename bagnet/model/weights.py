"""Read and write weights: the authors' files, our checkpoints, and safetensors."""

from __future__ import annotations

import os
import pickle
import warnings
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save
from torch import Tensor, nn

from bagnet.model.registry import ORIGINAL_WIDTH, build_model


def load_weights(path: str | Path) -> dict[str, Tensor]:
    """Read weights, onto the CPU and under the names of the network's own state dict.

    Args:
        path: `.safetensors`; or anything that `torch.save` wrote: a state dict, a dict with one as
            `state_dict` (the authors' `.pth.tar`), or a checkpoint of ours, of which only the keys
            `model.*` are taken. The prefixes `module.` (DataParallel) and `_orig_mod.`
            (torch.compile) are removed.

    Raises:
        ValueError: there is no such file, it is not a checkpoint or incomplete, or it holds Python
            objects, which are never unpickled.
    """
    return _weights(_read(Path(path)), path)


def load_model(
    path: str | Path,
    name: str | None = None,
    num_classes: int | None = None,
    width: int | None = None,
) -> nn.Module:
    """Build the network that a file is for, with its weights, in evaluation mode.

    Args:
        path: see `load_weights`.
        name: one of `models.MODELS`. Our checkpoints know it; for all other files it must be given.
        num_classes: by default what the checkpoint says, or else the size of the last layer.
        width: by default what the checkpoint says, or else the size of the first layer.

    Raises:
        ValueError: as in `load_weights`; the name is not known; or the weights are of another
            network.
    """
    content = _read(Path(path))
    weights = _weights(content, path)
    settings = content.get("hyper_parameters") or {}
    name = name or settings.get("name")
    if name is None:
        raise ValueError(
            f"{path} does not say which network it is for: give its name, such as name='bagnet33'"
        )
    # Our checkpoints may leave a setting None, when it was taken from the data.
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
            f"networks lose accuracy in lower precision: evaluate this one in float32 without TF32",
            stacklevel=2,
        )
    return model.eval()


def save_weights(model: nn.Module, path: str | Path) -> None:
    """Write a state dict as `.safetensors` or `.pth`; the file appears complete or not at all.

    Raises:
        ValueError: another suffix.
    """
    path = Path(path)
    if path.suffix not in (".safetensors", ".pth"):
        raise ValueError(f"cannot write weights to {path}: the suffix must be .safetensors or .pth")
    # safetensors takes contiguous tensors only, and channels_last ones are not.
    weights = {
        _clean(key): tensor.detach().cpu().contiguous()
        for key, tensor in model.state_dict().items()
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        if path.suffix == ".pth":
            torch.save(weights, unfinished)
        else:
            unfinished.write_bytes(save(weights))  # `save_file` ignores the umask
        unfinished.replace(path)
    finally:
        unfinished.unlink(missing_ok=True)


def dead_layers(model: nn.Module, threshold: float = 1e-6) -> list[str]:
    """Names of the weight tensors in which no value reaches `threshold`; a bias may be zero.

    The authors' BagNet-33 has such layers, with values of about 1e-7, and is measured at 66.7%
    top-1 in float32, 64.2% under TF32 and 58.0% in float16.
    """
    return [
        name
        for name, weight in model.named_parameters()
        if name.endswith("weight") and weight.detach().abs().max().item() < threshold
    ]


def _read(path: Path) -> dict[str, Any]:
    """The dict that a file holds: weights, or weights and more."""
    if not path.is_file():
        raise ValueError(f"there is no checkpoint {path}: give the path of a file")
    try:
        if path.suffix == ".safetensors":
            return load_file(path)
        content = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # a broken file can fail anywhere in a parser
        objects = _python_objects(path) if isinstance(error, pickle.UnpicklingError) else []
        if objects:
            raise ValueError(
                f"{path} holds Python objects ({_some(objects)}), and loading those can run any "
                f"code: if you trust the file, save its state dict alone and load that"
            ) from error
        reason = (str(error) or type(error).__name__).splitlines()[0][:120]
        raise ValueError(
            f"{path} is not a checkpoint, or it is incomplete ({reason}): copy or download it again"
        ) from error
    if not isinstance(content, dict):
        raise ValueError(f"{path} holds a {type(content).__name__}, not a dict of weights")
    return content


def _python_objects(path: Path) -> list[str]:
    """Names of the classes and functions that `weights_only` refuses to import for this file."""
    try:
        return torch.serialization.get_unsafe_globals_in_checkpoint(path)
    except Exception:  # not an archive: something else is wrong, or they cannot be listed
        return []


def _weights(content: dict[str, Any], path: str | Path) -> dict[str, Tensor]:
    state = content.get("state_dict", content)
    weights = (
        {_clean(key): value for key, value in state.items() if isinstance(value, Tensor)}
        if isinstance(state, dict)
        else {}
    )
    # Beside the network, a checkpoint of ours has metrics.
    ours = {key: value for key, value in weights.items() if key.startswith("model.")}
    if ours:
        weights = {_clean(key.removeprefix("model.")): value for key, value in ours.items()}
    if not weights:
        raise ValueError(f"{path} holds no weights: neither a state dict nor a checkpoint with one")
    return weights


def _clean(key: str) -> str:
    """A key without the prefixes of wrappers; compiled inner modules leave theirs in the middle."""
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
    """The names of the layers of a kind, in the network's order."""
    with torch.device("meta"):
        return [key for key, layer in build_model(name).named_modules() if isinstance(layer, kind)]


def _check_same_network(weights: dict[str, Tensor], model: nn.Module, message: str) -> None:
    expected = {key: tensor.shape for key, tensor in model.state_dict().items()}
    # Files of before PyTorch 0.4.1 have no such counter, and load_state_dict fills it in.
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
            ("it has the unknown", sorted(unexpected)),
            ("it has", shapes),
        )
        if names
    ]
    if faults:
        raise ValueError(f"{message}: {'; '.join(faults)}")


def _some(names: Iterable[str]) -> str:
    """The first three, and how many more there are."""
    names = list(names)
    return ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")
