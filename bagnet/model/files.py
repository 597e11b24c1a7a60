"""What is in a file of weights, of ours or of others, and nothing of it is ever run."""

from __future__ import annotations

import json
import pickle
import re
import zipfile
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from torch import Tensor

from bagnet.model.archive import check_archive
from bagnet.model.card import Card
from bagnet.model.config import CONFIG, WEIGHTS, read_config
from bagnet.model.registry import is_model
from datamodules.common.files import user_path

METADATA = "bagnet"
"""The key of the card in the metadata of safetensors."""
_PLACES = ("state_dict_ema", "state_dict", "model_state_dict", "model", "net")
"""Where checkpoints have the weights; like timm, an average before the weights that it is of."""
_WRAPPERS = ("module.", "model.", "net.", "backbone.")
_COMPILED = "_orig_mod."


@dataclass(frozen=True)
class Saved:
    """The content of a file.

    Attributes:
        path: As the user gave it, for messages.
        weights: Tensors by their names in the network's own state dict.
        card: What the file says of its network.
    """

    path: str | Path
    weights: dict[str, Tensor]
    card: Card


def read_saved(path: str | Path, tensors: bool = True) -> Saved:
    """Read a file of weights onto the CPU.

    Args:
        path: See `bagnet.model.weights.load_weights`.
        tensors: Whether their values are wanted; otherwise only their shapes are certain.

    Raises:
        ValueError: The file does not exist, is not a file of weights, is incomplete, or contains
            Python objects or weights that are not finite.
    """
    file = user_path(path)
    content = read_content(file, tensors)
    card, settings = content.get("card"), content.get("hyper_parameters")
    try:
        card = Card.of(card if isinstance(card, dict) else {})
        config = file.with_name(CONFIG)
        if file.name == WEIGHTS and config.is_file():
            card = read_config(config) or card
    except (TypeError, ValueError, RecursionError) as error:
        raise ValueError(f"{path} is damaged ({error}): copy or download it again") from None
    if card.name is None and isinstance(settings, dict) and is_model(str(settings.get("name"))):
        card = replace(card, name=settings["name"])  # a checkpoint of an older version
    weights = _weights(content, path)
    odd = [key for key, each in weights.items() if not is_dense(each) or (tensors and each.is_meta)]
    if odd:
        raise ValueError(
            f"{path} has tensors that do not store all of their values ({some(odd)}): save the "
            "weights as dense tensors"
        )
    if tensors:
        _require_finite(weights, path)
    return Saved(path, weights, card)


def read_card(path: str | Path) -> Card:
    """Read what a file says of its network, quickly; raises as `read_saved`."""
    return read_saved(path, tensors=False).card


def _require_finite(weights: dict[str, Tensor], path: str | Path) -> None:
    broken = [name for name, weight in weights.items() if not weight.isfinite().all()]
    if broken:
        raise ValueError(
            f"{path} has weights that are NaN or infinite ({some(broken)}), because its training "
            "diverged: take an earlier checkpoint"
        )


def is_dense(tensor: Tensor) -> bool:
    """Whether a tensor stores each of its values: a view of one number can have any size."""
    dense = tensor.layout == torch.strided and not (tensor.is_quantized or tensor.is_nested)
    return dense and tensor.nbytes <= tensor.untyped_storage().nbytes()


def clean(key: str) -> str:
    """Remove wrappers' prefixes from a key; that of a compiled inner module is in its middle."""
    return key.replace(_COMPILED, "").removeprefix("module.")


def some(names: Iterable[str]) -> str:
    """The first three names, and how many more there are."""
    names = list(names)
    return ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")


def read_content(path: Path, tensors: bool = True) -> dict[str, Any]:
    """Read the dict in a file: weights, or weights and more.

    Args:
        path: The file.
        tensors: Whether their values are wanted.

    Raises:
        ValueError: The file does not exist, is not of this kind, is incomplete, or contains Python
            objects.
    """
    if not path.is_file():
        raise ValueError(f"there is no checkpoint {path}: give the path of a file of weights")
    try:
        if path.suffix == ".safetensors":
            return _read_safetensors(path)
        archived = zipfile.is_zipfile(path)
        if archived:
            check_archive(path)
        lazy = not tensors and archived
        place = "meta" if lazy else "cpu"
        content = torch.load(path, map_location=place, weights_only=True, mmap=lazy)
    except Exception as error:  # broken files can raise anything
        objects = _python_objects(path) if isinstance(error, pickle.UnpicklingError) else []
        if objects:
            raise ValueError(
                f"{path} holds Python objects ({some(objects)}), and loading those can run any "
                "code: if you trust the file, save its state dict alone and load that"
            ) from error
        reason = (str(error) or type(error).__name__).splitlines()[0][:120]
        raise ValueError(
            f"{path} is not a checkpoint, or it is incomplete ({reason}): copy or download it again"
        ) from error
    if not isinstance(content, dict):
        raise ValueError(f"{path} holds a {type(content).__name__}, not a dict of weights")
    return content


def require_whole(checkpoint: Path) -> None:
    """Read all of a checkpoint, without keeping its tensors.

    Raises:
        ValueError: torch cannot open it, it contains Python objects, or a checksum differs.
    """
    read_content(checkpoint, tensors=False)
    try:
        with zipfile.ZipFile(checkpoint) as archive:
            damaged = archive.testzip()
    except Exception as error:  # as above: of names that are no text, of parts that are encrypted
        raise ValueError(f"{checkpoint} is damaged ({error}); give another one") from None
    if damaged:
        raise ValueError(f"{checkpoint} is damaged in its part {damaged}; give another one")


def is_whole(checkpoint: Path) -> bool:
    """Whether `require_whole` finds nothing."""
    try:
        require_whole(checkpoint)
    except ValueError:
        return False
    return True


def _read_safetensors(path: Path) -> dict[str, Any]:
    with safe_open(path, framework="pt") as file:
        card = json.loads((file.metadata() or {}).get(METADATA, "{}"))
        names = file.keys()
        return {"state_dict": {name: file.get_tensor(name) for name in names}, "card": card}


def _python_objects(path: Path) -> list[str]:
    """List the classes and functions in a file that `weights_only` refuses to import."""
    try:
        return torch.serialization.get_unsafe_globals_in_checkpoint(path)
    except Exception:  # not an archive, so there is nothing to list
        return []


def _weights(content: dict[str, Any], path: str | Path) -> dict[str, Tensor]:
    """Find the weights in the content of a file."""
    states = (_tensors(content.get(place)) for place in _PLACES)
    weights = next(filter(None, states), None) or _tensors(content)
    # What is beside the network in a module, such as metrics, is not the network's.
    while wrapper := next((w for w in _WRAPPERS if any(key.startswith(w) for key in weights)), ""):
        weights = {
            key.removeprefix(wrapper): value
            for key, value in weights.items()
            if key.startswith(wrapper)
        }
    if not weights:
        raise ValueError(f"{path} holds no weights: neither a state dict nor a checkpoint with one")
    return weights


def _tensors(state: object) -> dict[str, Tensor]:
    """The tensors in a dict, by the names that our networks give them."""
    return {
        _renamed(key): value
        for key, value in (state.items() if isinstance(state, dict) else ())
        if isinstance(key, str) and isinstance(value, Tensor)
    }


def _renamed(key: str) -> str:
    """A key without what compilers add; torchvision's file of the DenseNet has a dot too many."""
    return re.sub(r"(denselayer\d+\.(?:norm|conv))\.([12]\.)", r"\1\2", key.replace(_COMPILED, ""))
