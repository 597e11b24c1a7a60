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
from bagnet.model.recognition import recognise, require_same, sizes
from bagnet.model.registry import build_model, classifier_of, is_model
from bagnet.model.sources import find_weights
from datamodules.common.files import replacing, user_path


def load_weights(path: str | Path) -> dict[str, Tensor]:
    """Read weights onto the CPU, under the names in the network's own state dict.

    Args:
        path: See `find_weights`. A file is `.safetensors`, or written by `torch.save`: a state
            dict; a dict that has one as `state_dict_ema`, `state_dict`, `model_state_dict`, `model`
            or `net`; or one of our checkpoints. The prefixes `module.`, `model.`, `net.`,
            `backbone.` and `_orig_mod.` are removed, and what is beside them is left out.

    Raises:
        ValueError: There is no such file or it cannot be fetched, it is not a file of weights, is
            incomplete, or contains Python objects, which are never unpickled.
    """
    return read_saved(find_weights(path)).weights


def load_model(
    path: str | Path,
    name: str | None = None,
    num_classes: int | None = None,
    width: int | None = None,
    classes: Sequence[str] | None = None,
) -> nn.Module:
    """Load a trained network, on the CPU and in evaluation mode.

    `bagnet.load` is this function. The network's attribute `card` has what the file says about it,
    such as `model.card.class_names` (see `bagnet.model.card.Card`).

    It warns about nearly dead layers, as in the authors' BagNet-33: such a network loses accuracy
    in lower precision.

    Args:
        path: A file (see `load_weights`), a run or its name, a URL, `hf://ORG/NAME`, or the name of
            a network with published weights, such as "bagnet33"; see `find_weights`. What is here
            comes first, and it warns if that is not what was published.
        name: Name of the network, such as those in `bagnet.model.registry.MODELS`, if it is another
            one than the file says or its tensors tell.
        num_classes: Number of classes, by default that of the last layer.
        width: Channels of the first convolution, by default that of the first layer.
        classes: Class ids of the data that the network is for, by label. The outputs are put into
            this order. It warns if they were not, or if the file does not name its classes.

    Returns:
        The network; a `BagNet` if its name begins with `bagnet`.

    Raises:
        ValueError: As in `load_weights`; or the network is unknown; or the weights are from another
            one or for other classes.

    Examples:
        >>> import tempfile
        >>> from bagnet.model.network import BagNet
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     save_weights(BagNet(9, num_classes=10, width=4), f"{folder}/tiny.pth")
        ...     model = load_model(f"{folder}/tiny.pth")
        >>> model.receptive_field, model.fc.out_features, model.training
        (9, 10, False)
    """
    saved = read_saved(find_weights(path))
    weights, card = saved.weights, saved.card
    if name is None and card.name is not None and not is_model(card.name):
        raise ValueError(
            f"{saved.path} says that it is of a network {card.name[:99]!r}, which is not known "
            "here; give the network's name beside the weights"
        )
    name = name or card.name or recognise(weights, saved.path)
    own_classes, own_width = sizes(weights, name, saved.path)
    num_classes, width = num_classes or own_classes, width or own_width
    model = build_model(name, num_classes, width)
    require_same(
        weights,
        model,
        f"{saved.path} does not fit {name} with {num_classes} classes and width {width}",
    )
    if classes is not None:
        saved, notice = _for_classes(saved, _head(model), classes)
        weights, card = saved.weights, saved.card
        if notice:
            warnings.warn(notice, stacklevel=2)
    model.load_state_dict(weights)
    set_card(model, replace(card, name=name))
    _warn_of_dead_layers(model, saved.path)
    return model.eval()


def start_from(
    path: str | Path, model: nn.Module, name: str, classes: Sequence[str] = ()
) -> tuple[str, bool]:
    """Give a network that is to be trained the weights of a file.

    If the file has other classes, more, fewer or none, the classifier stays as it is.

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
    own = saved = read_saved(find_weights(path))
    head = _head(model)
    if not classes:
        outputs, named = len(next(iter(head.values()))), saved.card.classes
        classes = named if len(named) == outputs else tuple(map(str, range(outputs)))
    is_fresh = False
    try:
        saved, notice = _for_classes(saved, head, classes)
    except OtherClasses as error:
        is_fresh = True
        fresh = Card(classes=tuple(classes))
        saved = replace(saved, weights={**saved.weights, **head}, card=fresh)
        notice = f"{error}: its classifier starts afresh"
    try:
        require_same(saved.weights, model, f"{saved.path} does not fit {name}")
    except ValueError as error:
        raise ValueError(_other_network(own, name, model) or str(error)) from None
    model.load_state_dict(saved.weights)
    set_card(model, replace(saved.card, name=name))
    _warn_of_dead_layers(model, saved.path)
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

    Examples:
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


def _other_network(saved: Saved, name: str, model: nn.Module) -> str:
    """Say by name and width that weights are from another network; empty if they are not."""
    try:
        found = recognise(saved.weights, saved.path)
    except ValueError:
        return ""
    (_, width), (_, wanted) = (
        sizes(weights, network, saved.path)
        for weights, network in ((saved.weights, found), (model.state_dict(), name))
    )
    if (found, width) == (name, wanted):
        return ""
    return (
        f"{saved.path} does not fit {name} of width {wanted}, as it is from a {found} of width "
        f"{width}: give --model.name {found} --model.width {width}"
    )


def _head(model: nn.Module) -> dict[str, Tensor]:
    """Weight and bias of the classifier, by their names in the network."""
    own = set(classifier_of(model).parameters())
    return {key: value.detach() for key, value in model.named_parameters() if value in own}


def _for_classes(
    saved: Saved, head: Mapping[str, Tensor], classes: Sequence[str]
) -> tuple[Saved, str]:
    """Put the outputs into the order of the data's classes; see `outputs_for`."""
    rows = {key: saved.weights[key] for key in head if key in saved.weights}
    if not rows:
        raise OtherClasses(f"{saved.path} has no {' and no '.join(head)}")
    outputs = len(next(iter(rows.values())))
    order, notice = outputs_for(classes, saved.card.classes, outputs, saved.path)
    weights = {**saved.weights, **{key: values[order] for key, values in rows.items()}}
    return replace(saved, weights=weights, card=saved.card.reordered(order, classes)), notice
