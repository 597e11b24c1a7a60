"""Weights in every kind of file, and the messages about bad files."""

from __future__ import annotations

import os
import stat
import warnings
from collections import OrderedDict
from pathlib import Path

import pytest
import torch
from torch import nn

from bagnet.model.network import BagNet
from bagnet.model.registry import build_model
from bagnet.model.weights import dead_layers, load_model, load_weights, save_weights


@pytest.fixture(scope="module")
def model() -> nn.Module:
    torch.manual_seed(0)
    model = BagNet(9, num_classes=3, width=2)
    model(torch.randn(4, 3, 20, 20))  # so that its running statistics are not the default ones
    return model.eval()


def same(a: dict, b: dict) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[key], b[key]) for key in a)


def checkpoint(path: Path, network: nn.Module, **settings: object) -> Path:
    """What matters here of a checkpoint: weights under `model.`, a metric, hyperparameters."""
    state = {f"model.{key}": value for key, value in network.state_dict().items()}
    state["metric"] = torch.zeros(1)
    torch.save({"state_dict": state, "hyper_parameters": settings}, path)
    return path


@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
def test_weights_come_back_as_they_were_saved(tmp_path, model, suffix):
    path = tmp_path / "new folder" / f"weights{suffix}"
    save_weights(model, path)
    assert same(load_weights(path), model.state_dict())
    assert list(path.parent.iterdir()) == [path]


@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
def test_compiled_and_channels_last_networks_save_the_same_weights(tmp_path, model, suffix):
    other = BagNet(9, num_classes=3, width=2)
    other.load_state_dict(model.state_dict())
    save_weights(
        torch.compile(other.to(memory_format=torch.channels_last)), tmp_path / f"a{suffix}"
    )
    assert same(load_weights(tmp_path / f"a{suffix}"), model.state_dict())


def test_saved_files_follow_the_umask(tmp_path, model):
    save_weights(model, tmp_path / "a.safetensors")
    (tmp_path / "plain").touch()
    modes = {stat.S_IMODE(file.stat().st_mode) for file in tmp_path.iterdir()}
    assert len(modes) == 1


def test_save_knows_its_suffixes(tmp_path, model):
    with pytest.raises(
        ValueError, match=r"weights.onnx: the suffix must be \.safetensors or \.pth"
    ):
        save_weights(model, tmp_path / "weights.onnx")


@pytest.mark.parametrize("prefix", ["", "module.", "_orig_mod.", "module._orig_mod.", "model."])
@pytest.mark.parametrize("wrapped", [True, False])
def test_state_dicts_of_others(tmp_path, model, prefix, wrapped):
    state = OrderedDict((prefix + key, value) for key, value in model.state_dict().items())
    content = {"epoch": 90, "arch": "bagnet9", "state_dict": state} if wrapped else state
    torch.save(content, tmp_path / "bagnet9.pth.tar")
    assert same(load_weights(tmp_path / "bagnet9.pth.tar"), model.state_dict())


def test_checkpoints_of_pytorch_0_4(tmp_path, model):
    old = {k: v for k, v in model.state_dict().items() if not k.endswith("num_batches_tracked")}
    torch.save({"state_dict": old}, tmp_path / "old.pth.tar", _use_new_zipfile_serialization=False)
    loaded = load_model(tmp_path / "old.pth.tar", "bagnet9").state_dict()
    assert same({key: loaded[key] for key in old}, old)
    assert loaded["bn1.num_batches_tracked"] == 0


@pytest.mark.parametrize("compiled", [True, False])
def test_our_checkpoints_say_what_to_build(tmp_path, model, compiled):
    inner = BagNet(9, num_classes=3, width=2)
    inner.load_state_dict(model.state_dict())
    network = torch.compile(inner) if compiled else inner
    assert any(key.startswith("_orig_mod.") for key in network.state_dict()) == compiled
    path = checkpoint(tmp_path / "last.ckpt", network, name="bagnet9", num_classes=3, width=2)
    loaded = load_model(path)
    assert isinstance(loaded, BagNet)
    assert loaded.receptive_field == 9
    assert not loaded.training
    assert same(loaded.state_dict(), model.state_dict())


def test_settings_missing_in_a_checkpoint_come_from_the_weights(tmp_path, model):
    path = checkpoint(tmp_path / "a.ckpt", model, name="bagnet9", num_classes=None, width=2)
    assert load_model(path).fc.out_features == 3


def test_other_files_tell_by_their_shapes_what_to_build(tmp_path, model):
    path = tmp_path / "weights.safetensors"
    save_weights(model, path)
    x = torch.randn(2, 3, 30, 20)
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # it has no dead layers
        for name in (None, "bagnet9"):
            assert torch.equal(load_model(path, name)(x), model(x))


@pytest.mark.parametrize(
    ("arguments", "messages"),
    [
        # BagNet-17 has the same names as BagNet-9, and one 3x3 more.
        (
            {"name": "bagnet17"},
            ["not fit bagnet17", "layer3.0.conv2.weight (8, 8, 1, 1) instead of (8, 8, 3, 3)"],
        ),
        ({"name": "alexnet"}, ["is not a alexnet: it has no classifier.6.weight", "and 318 more"]),
        (
            {"name": "resnet50"},
            ["fit resnet50", "unknown conv2.weight; it has conv1.weight (2, 3, 1, 1)", "more"],
        ),
        (
            {"name": "bagnet9", "num_classes": 4},
            ["4 classes", "fc.weight (3, 64) instead of (4, 64)"],
        ),
        ({"name": "bagnet9", "width": 4}, ["width 4", "conv1.weight (2, 3, 1, 1) instead of (4, "]),
        ({"name": "bagnet12"}, ["no model 'bagnet12'"]),
    ],
)
def test_weights_of_another_network_are_an_error(tmp_path, model, arguments, messages):
    save_weights(model, tmp_path / "a.pth")
    with pytest.raises(ValueError, match=r"fit|is not a|no model") as error:
        load_model(tmp_path / "a.pth", **arguments)
    for message in messages:
        assert message in str(error.value)
    assert len(str(error.value)) < 900


def test_a_file_that_is_missing(tmp_path):
    with pytest.raises(ValueError, match=f"neither a file {tmp_path / 'none.ckpt'} nor a run"):
        load_weights(tmp_path / "none.ckpt")
    with pytest.raises(ValueError, match=f"{tmp_path} has no checkpoint"):
        load_weights(tmp_path)


@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
@pytest.mark.parametrize("share", [0, 0.5, 0.99, None])
def test_a_file_that_is_truncated_or_something_else(tmp_path, model, suffix, share):
    path = tmp_path / f"a{suffix}"
    save_weights(model, path)
    content = path.read_bytes()
    something_else = b"<html>404 not found</html>"
    path.write_bytes(something_else if share is None else content[: int(share * len(content))])
    with pytest.raises(ValueError, match="not a checkpoint, or it is incomplete"):
        load_weights(path)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"epoch": 3}, "no weights"),
        ({"state_dict": {}}, "no weights"),
        ({"state_dict": 3}, "no weights"),
        ({"lr": 0.1, "state_dict": {"a": 1}}, "no weights"),
        ([1, 2], "a list, not a dict"),
    ],
)
def test_a_file_without_weights(tmp_path, content, message):
    torch.save(content, tmp_path / "a.pth")
    with pytest.raises(ValueError, match=f"holds {message}"):
        load_weights(tmp_path / "a.pth")


class Trap:
    """An object that runs a command when it is unpickled."""

    def __init__(self, file: Path) -> None:
        self.file = file

    def __reduce__(self):
        return os.mkdir, (str(self.file),)


def test_python_objects_are_refused_by_name_and_never_run(tmp_path, model):
    torch.save(
        {"state_dict": model.state_dict(), "args": Trap(tmp_path / "run")}, tmp_path / "a.pth"
    )
    with pytest.raises(ValueError, match=r"holds Python objects \(posix\.mkdir\)"):
        load_weights(tmp_path / "a.pth")
    assert not (tmp_path / "run").exists()


def test_dead_layers_are_named_and_loading_them_warns_once(tmp_path):
    model = BagNet(9, num_classes=3, width=2)
    assert dead_layers(model) == []  # though its biases are zero
    with torch.no_grad():
        model.layer3[2].conv2.weight.mul_(1e-7)
        model.layer4[1].bn3.weight.fill_(9e-7)
        model.layer4[2].bn3.weight.fill_(-1.1e-6)
    assert dead_layers(model) == ["layer3.2.conv2.weight", "layer4.1.bn3.weight"]
    assert "layer4.2.bn3.weight" in dead_layers(model, threshold=1e-5)
    save_weights(model, tmp_path / "a.pth")
    with pytest.warns(UserWarning, match="nearly dead layers") as record:
        load_model(tmp_path / "a.pth", "bagnet9")
    (warning,) = record
    assert "layer3.2.conv2.weight, layer4.1.bn3.weight" in str(warning.message)
    assert "float32 without TF32" in str(warning.message)
    assert warning.filename == __file__


@pytest.mark.parametrize(
    ("name", "width", "suffix"),
    [
        ("resnet50", 64, ".pth"),
        ("resnet50", 2, ".safetensors"),
        ("densenet169", 2, ".pth"),
        ("alexnet", 2, ".safetensors"),
    ],
)
def test_the_first_layer_tells_the_width(tmp_path, name, width, suffix):
    network = build_model(name, num_classes=3, width=width)
    save_weights(network, tmp_path / f"a{suffix}")
    loaded = load_model(tmp_path / f"a{suffix}", name)
    assert same(loaded.state_dict(), network.state_dict())
