"""Classes, sizes and names travel with weights, and classes are compared with the data's."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from bagnet.model.card import Card, OtherClasses, card_of, outputs_for, set_card
from bagnet.model.files import read_card
from bagnet.model.registry import build_model
from bagnet.model.weights import load_model, save_weights, start_from

IDS = ("n01", "n02", "n03")
CARD = Card("bagnet9", IDS, ("cat", "dog", "fox"), 64, 72)
CHECKPOINT, EXPORT = "last.ckpt", "net.safetensors"


def network(classes: int = 3, seed: int = 0) -> nn.Module:
    torch.manual_seed(seed)
    return build_model("bagnet9", classes, width=2)


def saved(path: Path, card: Card = CARD) -> nn.Module:
    """Write a network with a card, as an export or as a checkpoint of ours."""
    model = network()
    set_card(model, card)
    if path.suffix == ".ckpt":
        state = {f"model.{name}": value for name, value in model.state_dict().items()}
        settings = {"name": "bagnet9", "num_classes": 3, "width": 2}
        content = {"state_dict": state, "hyper_parameters": settings, "card": asdict(card)}
        torch.save(content, path)
    else:
        save_weights(model, path)
    return model.eval()


@pytest.mark.parametrize("file", [CHECKPOINT, EXPORT])
def test_a_file_says_what_it_needs_to_be_loaded(tmp_path, file):
    model = saved(tmp_path / file)
    assert read_card(tmp_path / file) == CARD
    loaded = load_model(tmp_path / file)  # also its name
    assert card_of(loaded) == CARD
    x = torch.randn(2, 3, 20, 20)
    assert torch.equal(loaded(x), model(x))
    save_weights(loaded, tmp_path / "again.safetensors")
    assert read_card(tmp_path / "again.safetensors") == CARD


def test_files_of_others_and_of_older_versions_say_less(tmp_path):
    model = network()
    settings = {"name": "bagnet9", "num_classes": 3, "width": 2}
    old = {"state_dict": model.state_dict(), "hyper_parameters": settings}
    torch.save(old, tmp_path / "old.ckpt")
    assert read_card(tmp_path / "old.ckpt") == Card("bagnet9")
    state = model.state_dict()
    torch.save({"state_dict": state}, tmp_path / "a.pth.tar", _use_new_zipfile_serialization=False)
    torch.save(state, tmp_path / "b.pth")
    save_file(state, tmp_path / "c.safetensors")
    for name in ("a.pth.tar", "b.pth", "c.safetensors"):
        assert read_card(tmp_path / name) == Card()


@pytest.mark.parametrize(
    "metadata",
    [
        "[1]",
        "{",
        '{"classes": 3}',
        '{"classes": [1, 2, 3]}',
        '{"classes": ["a", "a", "b"]}',
        '{"classes": ["a", "b"], "class_names": ["a"]}',
        '{"image_size": -3}',
        '{"name": 3}',
        "[" * 100_000,
    ],
)
def test_a_damaged_card_is_one_line(tmp_path, metadata):
    save_file(network().state_dict(), tmp_path / "a.safetensors", {"bagnet": metadata})
    if metadata == "[1]":
        assert read_card(tmp_path / "a.safetensors") == Card()
        return
    with pytest.raises(ValueError, match=r"a\.safetensors is ") as error:
        load_model(tmp_path / "a.safetensors", "bagnet9")
    assert len(str(error.value)) < 300


@pytest.mark.parametrize(
    ("data", "own", "order", "notice"),
    [
        (IDS, IDS, [0, 1, 2], ""),
        (("n03", "n01", "n02"), IDS, [2, 0, 1], "numbers the classes in another order"),
        (IDS, (), [0, 1, 2], "do not both name"),
        (("0", "1", "2"), IDS, [0, 1, 2], "do not both name"),
        (IDS, ("0", "1", "2"), [0, 1, 2], "do not both name"),
        (("0", "2", "1"), ("0", "1", "2"), [0, 2, 1], "another order"),
    ],
)
def test_each_class_of_the_data_has_its_output(data, own, order, notice):
    found, said = outputs_for(data, own, 3, "net.ckpt")
    assert found == order
    assert notice in said
    assert bool(notice) == bool(said)
    assert "\n" not in said


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (("n01", "n02"), "2 classes here, 3 in net.ckpt"),
        (("n01", "n02", "n09"), "other classes here than in net.ckpt, which does not know 'n09'"),
    ],
)
def test_other_classes_are_said(data, message):
    with pytest.raises(OtherClasses, match=message):
        outputs_for(data, IDS, 3, "net.ckpt")


@pytest.mark.parametrize("file", [CHECKPOINT, EXPORT])
def test_a_network_is_loaded_with_its_outputs_in_the_order_of_the_data(tmp_path, file):
    model, order = saved(tmp_path / file), [2, 0, 1]
    with pytest.warns(UserWarning, match=f"{file} numbers the classes in another order"):
        loaded = load_model(tmp_path / file, classes=[IDS[number] for number in order])
    x = torch.randn(2, 3, 20, 20)
    torch.testing.assert_close(loaded(x), model(x)[:, order])
    assert card_of(loaded).classes == ("n03", "n01", "n02")
    assert card_of(loaded).class_names == ("fox", "cat", "dog")
    with pytest.raises(ValueError, match="2 classes here, 3 in"):
        load_model(tmp_path / file, classes=IDS[:2])


@pytest.mark.parametrize("file", [CHECKPOINT, EXPORT])
@pytest.mark.parametrize("classes", [(*IDS, "n04"), ("n01", "n02", "n09"), IDS[:2]])
def test_for_other_classes_the_classifier_is_a_fresh_one_and_all_else_the_files(
    tmp_path, file, classes
):
    source = saved(tmp_path / file).state_dict()
    model = network(len(classes), seed=1)
    notice, is_fresh = start_from(tmp_path / file, model, "bagnet9", classes)
    assert is_fresh
    assert notice.endswith(f"{file}: its classifier starts afresh") or "'n09'" in notice
    fresh = network(len(classes), seed=1).state_dict()
    for name, value in model.state_dict().items():
        assert torch.equal(value, (fresh if name.startswith("fc.") else source)[name]), name
    assert card_of(model) == Card("bagnet9", tuple(classes))


@pytest.mark.parametrize(
    ("classes", "order", "said"),
    [
        (IDS, [0, 1, 2], ""),
        ((), [0, 1, 2], ""),
        (IDS[::-1], [2, 1, 0], "another order"),
        (("0", "1", "2"), [0, 1, 2], "do not both name"),
    ],
)
def test_for_the_same_classes_everything_is_loaded(tmp_path, classes, order, said):
    source = saved(tmp_path / EXPORT).state_dict()
    model = network(seed=1)
    notice, is_fresh = start_from(tmp_path / EXPORT, model, "bagnet9", classes)
    assert not is_fresh
    assert said in notice
    for name, value in model.state_dict().items():
        expected = source[name][order] if name.startswith("fc.") else source[name]
        assert torch.equal(value, expected), name
