"""Reads and writes weights: safetensors, the authors' files, and those in our checkpoints."""

from __future__ import annotations

import json
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path

import torch
from safetensors.torch import save
from torch import Tensor, nn

from bagnet.model.card import Card, OtherClasses, card_of, outputs_for, set_card
from bagnet.model.files import METADATA, Saved, clean, read_saved, some
from bagnet.model.registry import ORIGINAL_WIDTH, build_model, classifier_of
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
    return read_saved(path).weights


def load_model(
    path: str | Path,
    name: str | None = None,
    num_classes: int | None = None,
    width: int | None = None,
    classes: Sequence[str] | None = None,
) -> nn.Module:
    """Load a trained network from a file, on the CPU and in evaluation mode.

    `bagnet.load` is this function. The network's attribute `card` has what the file says about it,
    such as `model.card.class_names` (see `bagnet.model.card.Card`).

    It warns about nearly dead layers, as in the authors' BagNet-33: such a network loses accuracy
    in lower precision.

    Args:
        path: One of our checkpoints, the authors' `.pth.tar`, or a `.safetensors` or `.pth` file of
            weights; see `load_weights`.
        name: Name of the network, one of `bagnet.model.registry.MODELS`. Our checkpoints and
            `.safetensors` files contain it; for other files it must be given.
        num_classes: Number of classes; by default, the checkpoint's or that of the last layer.
        width: Channels of the first convolution; by default, the checkpoint's or that of the first
            layer.
        classes: Class ids of the data that the network is for, by label. The outputs are put into
            this order. It warns if they were not, or if the file does not name its classes.

    Returns:
        The network; a `BagNet` if its name begins with `bagnet`.

    Raises:
        ValueError: As in `load_weights`; or the network's name is unknown; or the weights are from
            another network or for other classes.

    Example:
        >>> import tempfile
        >>> from bagnet.model.network import BagNet
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     save_weights(BagNet(9, num_classes=10, width=4), f"{folder}/tiny.pth")
        ...     model = load_model(f"{folder}/tiny.pth", name="bagnet9")
        >>> model.receptive_field, model.fc.out_features, model.training
        (9, 10, False)
    """
    saved = read_saved(path)
    weights, card, settings = saved.weights, saved.card, saved.settings
    name = name or card.name
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
    if classes is not None:
        saved, notice = _for_classes(saved, _head(model), classes)
        weights, card = saved.weights, saved.card
        if notice:
            warnings.warn(notice, stacklevel=2)
    model.load_state_dict(weights)
    set_card(model, replace(card, name=name))
    _warn_of_dead_layers(model, path)
    return model.eval()


def start_from(
    path: str | Path, model: nn.Module, name: str, classes: Sequence[str] = ()
) -> tuple[str, bool]:
    """Give a network that is to be trained the weights of a file.

    If the file has other classes, or more, or fewer, the classifier stays as it is.

    Args:
        path: See `load_model`.
        model: The network, with fresh weights.
        name: Its name.
        classes: Class ids of its data, by label; if they are not known, the file's are taken.

    Returns:
        What the user should know, empty if nothing; and whether the classifier stayed as it is.

    Raises:
        ValueError: As in `load_weights`, or the weights are from another network.
    """
    saved, head = read_saved(path), _head(model)
    _num_classes(saved.weights, name, path)  # for its error
    if not classes:
        outputs, own = len(next(iter(head.values()))), saved.card.classes
        classes = own if len(own) == outputs else tuple(map(str, range(outputs)))
    is_fresh = False
    try:
        saved, notice = _for_classes(saved, head, classes)
    except OtherClasses as error:
        is_fresh = True
        fresh = Card(classes=tuple(classes))
        saved = replace(saved, weights={**saved.weights, **head}, card=fresh)
        notice = f"{error}: its classifier starts afresh"
    _check_same_network(saved.weights, model, f"{path} does not fit {name}")
    model.load_state_dict(saved.weights)
    set_card(model, replace(saved.card, name=name))
    _warn_of_dead_layers(model, path)
    return notice, is_fresh


def save_weights(model: nn.Module, path: str | Path) -> None:
    """Write a network's state dict; the file appears complete or not at all.

    `bagnet.save` is this function. A `.safetensors` file also gets what is known of the network
    (`model.card`: its name, classes and sizes), and `load_model` finds it there.

    Args:
        model: The network; the prefixes of compiled and parallel modules are removed.
        path: A file whose suffix is `.safetensors` or `.pth`.

    Raises:
        ValueError: The suffix is another one.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     model = build_model("bagnet9", num_classes=2, width=4)
        ...     set_card(model, Card("bagnet9", classes=("n01", "n02"), class_names=("cat", "dog")))
        ...     save_weights(model, f"{folder}/tiny.safetensors")
        ...     load_model(f"{folder}/tiny.safetensors").card.class_names
        ('cat', 'dog')
    """
    path = user_path(path)
    if path.suffix not in (".safetensors", ".pth"):
        raise ValueError(f"cannot write weights to {path}: the suffix must be .safetensors or .pth")
    # safetensors takes contiguous tensors only, and channels_last ones are not.
    weights = {
        clean(key): tensor.detach().cpu().contiguous() for key, tensor in model.state_dict().items()
    }
    with replacing(path) as unfinished:
        if path.suffix == ".pth":
            torch.save(weights, unfinished)
        else:
            metadata = {"format": "pt", METADATA: json.dumps(asdict(card_of(model)))}
            unfinished.write_bytes(save(weights, metadata))  # `save_file` ignores the umask


def _warn_of_dead_layers(model: nn.Module, path: str | Path) -> None:
    if dead := dead_layers(model):
        warnings.warn(
            f"{path} has nearly dead layers, with no weight above 1e-6: {some(dead)}. Such "
            "networks lose accuracy in lower precision: evaluate this one in float32 without TF32",
            stacklevel=3,
        )


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


def _head(model: nn.Module) -> dict[str, Tensor]:
    """Weight and bias of the classifier, by their names in the network."""
    own = set(classifier_of(model).parameters())
    return {key: value.detach() for key, value in model.named_parameters() if value in own}


def _for_classes(
    saved: Saved, head: Mapping[str, Tensor], classes: Sequence[str]
) -> tuple[Saved, str]:
    """Put the outputs into the order of the data's classes; see `outputs_for`."""
    rows = {key: saved.weights[key] for key in head if key in saved.weights}
    outputs = len(next(iter(rows.values())))
    order, notice = outputs_for(classes, saved.card.classes, outputs, saved.path)
    weights = {**saved.weights, **{key: values[order] for key, values in rows.items()}}
    return replace(saved, weights=weights, card=saved.card.reordered(order, classes)), notice


def _num_classes(weights: dict[str, Tensor], name: str, path: str | Path) -> int:
    last = _layers(name, nn.Linear)[-1] + ".weight"
    if last not in weights:
        raise ValueError(f"{path} is not a {name}: it has no {last}, but {some(weights)}")
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
        f"{what} {some(names)}"
        for what, names in (
            ("it lacks", sorted(missing)),
            ("it has unknown", sorted(unexpected)),
            ("it has", shapes),
        )
        if names
    ]
    if faults:
        raise ValueError(f"{message}: {'; '.join(faults)}")
