"""The network that weights are from, by their shapes."""

from __future__ import annotations

from pathlib import Path

import pytest
import timm
import torch
from torch import nn

from bagnet.model.recognition import recognise
from bagnet.model.registry import MODELS, build_model
from bagnet.model.weights import load_model, start_from

Weights = dict[str, torch.Tensor]


def weights(name: str, classes: int = 1000, width: int = 64) -> Weights:
    with torch.device("meta"):
        return build_model(name, classes, width).state_dict()


@pytest.mark.parametrize("name", [*MODELS, "bagnet-2-2-0-0", "bagnet-0-0-0-0"])
def test_each_network_is_known_by_its_weights(name):
    assert recognise(weights(name), "a.pth") == name
    assert recognise(weights(name, 7, 8), "a.pth") == name
    old = {key: value for key, value in weights(name).items() if "num_batches" not in key}
    assert recognise(old, "a.pth") == name


def padded(state: Weights) -> Weights:
    """As a BagNet of bagnetsv2, whose stem is one 3x3 convolution."""
    stem = state["conv2.weight"].new_empty(len(state["conv2.weight"]), 3, 3, 3)
    return {key: value for key, value in state.items() if key != "conv2.weight"} | {
        "conv1.weight": stem
    }


def test_what_is_not_one_of_them_is_named_with_what_was_expected():
    with torch.device("meta"):
        foreign = {
            "vit": timm.create_model("vit_tiny_patch16_224").state_dict(),
            "resnet18": timm.create_model("resnet18").state_dict(),
            "nothing": {"a": torch.empty(()), "fc.weight": torch.empty(())},
            "larger": weights("bagnet9") | {"more.weight": torch.empty(3)},
        }
    for name, state in foreign.items():
        with pytest.raises(ValueError, match="from a network that is not known here") as error:
            recognise(state, f"{name}.pth")
        said = str(error.value)
        assert said.startswith(f"{name}.pth is from a network that is not known here: it has ")
        assert "expected the weights of one of bagnet9, bagnet17" in said
        assert "\n" not in said


def test_a_padded_bagnet_is_named_also_where_an_unpadded_one_was_expected(tmp_path):
    state = padded(weights("bagnet33"))
    with pytest.raises(
        ValueError, match="x.pt is from a BagNet with padded .*, such as .*v2: only"
    ):
        recognise(state, "x.pt")
    torch.save(padded(build_model("bagnet9", 3, width=2).state_dict()), tmp_path / "x.pt")
    with pytest.raises(ValueError, match=r"not fit bagnet9 .*; it is from a BagNet with padded"):
        load_model(tmp_path / "x.pt", "bagnet9")


@pytest.mark.parametrize("place", [None, "state_dict", "model_state_dict", "model", "net"])
@pytest.mark.parametrize("prefix", ["", "module.", "backbone.", "model.", "net.", "model.module."])
def test_the_weights_are_found_where_others_keep_them(tmp_path, place, prefix):
    model = build_model("bagnet9", 3, width=2)
    state = {f"{prefix}{key}": value for key, value in model.state_dict().items()}
    if prefix:
        state |= {"metric": torch.ones(1), "head.weight": torch.ones(3, 3)}
    content = state if place is None else {"epoch": 3, "model": {"width": 2}, place: state}
    torch.save(content, tmp_path / "a.pth")
    assert torch.equal(load_model(tmp_path / "a.pth").fc.weight, model.fc.weight)


def test_an_average_comes_before_the_weights_that_it_is_of(tmp_path):
    average, model = build_model("bagnet9", 3, width=2), build_model("bagnet9", 3, width=2)
    content = {"state_dict": model.state_dict(), "state_dict_ema": average.state_dict()}
    torch.save(content, tmp_path / "a.pth")
    assert torch.equal(load_model(tmp_path / "a.pth").fc.weight, average.fc.weight)
    wrapped = torch.optim.swa_utils.AveragedModel(average)
    torch.save(
        {"model": model.state_dict(), "state_dict_ema": wrapped.state_dict()}, tmp_path / "b"
    )
    assert torch.equal(load_model(tmp_path / "b").fc.weight, average.fc.weight)


def test_torchvisions_file_of_the_densenet_has_other_names(tmp_path):
    model = build_model("densenet169", 3, width=2)
    state = {
        key.replace("norm1.", "norm.1.").replace("conv2.", "conv.2."): value
        for key, value in model.state_dict().items()
    }
    assert state.keys() != model.state_dict().keys()
    torch.save(state, tmp_path / "densenet169.pth")
    loaded = load_model(tmp_path / "densenet169.pth").state_dict()
    assert all(torch.equal(loaded[key], value) for key, value in model.state_dict().items())


def headless(model: nn.Module, path: Path) -> Path:
    torch.save({k: v for k, v in model.state_dict().items() if not k.startswith("fc.")}, path)
    return path


def test_weights_without_a_classifier_begin_a_training_but_classify_nothing(tmp_path):
    file = headless(build_model("bagnet9", 3, width=2), tmp_path / "a.pth")
    with pytest.raises(ValueError, match=r"expected the weights of one of .*, with a classifier$"):
        load_model(file)
    model = build_model("bagnet9", 5, width=2)
    notice, is_fresh = start_from(file, model, "bagnet9")
    assert is_fresh
    assert notice == f"{file} has no fc.weight and no fc.bias: its classifier starts afresh"
    assert torch.equal(model.state_dict()["conv1.weight"], torch.load(file)["conv1.weight"])
