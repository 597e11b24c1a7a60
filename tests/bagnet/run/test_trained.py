"""What a run's checkpoint was trained on, and how people name a run."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
import yaml

from bagnet.run.trained import Sizes, choose_sizes, find_checkpoint, network_name


def save(path: Path, **card: int | str) -> Path:
    torch.save({"state_dict": {"fc.weight": torch.zeros(1)}, "card": card}, path)
    return path


@pytest.fixture
def runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of two runs: `small` with both checkpoints, and `large` with the last one."""
    monkeypatch.setenv("BAGNET_RUNS", str(tmp_path / "runs"))
    for name, size in (("small", 64), ("large", 224)):
        folder = tmp_path / "runs" / name / "checkpoints"
        folder.mkdir(parents=True)
        save(folder / "last.ckpt", image_size=size, resize_size=size + 8)
    save(tmp_path / "runs" / "small" / "checkpoints" / "best.ckpt", image_size=64, resize_size=72)
    return tmp_path / "runs"


def test_a_run_is_named_by_its_name_its_folder_or_a_file_of_it(runs, monkeypatch):
    best, last = (runs / "small" / "checkpoints" / f"{name}.ckpt" for name in ("best", "last"))
    for text in ("small", runs / "small", f"{runs / 'small'}/", best):
        assert find_checkpoint(text) == best
    assert find_checkpoint(last) == last
    assert find_checkpoint("large").name == "last.ckpt"
    monkeypatch.chdir(runs.parent)
    assert find_checkpoint("runs/large") == Path("runs/large/checkpoints/last.ckpt")
    Path("small").mkdir()  # the images that it was trained on
    assert find_checkpoint("small") == best


def test_what_is_neither_a_file_nor_a_run_is_one_message(runs):
    with pytest.raises(ValueError, match=r"there is neither a file nothing nor a run .*/nothing"):
        find_checkpoint("nothing")
    (runs / "empty").mkdir()
    with pytest.raises(ValueError, match=r"empty has no checkpoint"):
        find_checkpoint("empty")


def test_the_network_is_the_given_one_or_the_files(tmp_path):
    silent, named = save(tmp_path / "a.pth"), save(tmp_path / "b.ckpt", name="bagnet9")
    assert network_name(named, None) == "bagnet9"
    assert network_name(named, "bagnet17") == network_name(silent, "bagnet17") == "bagnet17"
    with pytest.raises(ValueError, match=r"a.pth does not say .* --model.name bagnet33"):
        network_name(silent, None)


def test_the_sizes_are_those_of_the_run_unless_others_are_given(runs, tmp_path):
    small, large = find_checkpoint("small"), find_checkpoint("large")
    other = save(tmp_path / "weights.pth")
    assert choose_sizes(None, None, [small]) == Sizes(64, 72)
    assert choose_sizes(None, None, [other, small]) == Sizes(64, 72)
    assert choose_sizes(96, None, [small]) == Sizes(96, 72)
    assert choose_sizes(None, None, [other]) == choose_sizes(None, None, []) == Sizes(224, 256)
    assert choose_sizes(96, 96, [small, large]) == Sizes(96, 96)
    with pytest.raises(
        ValueError, match=r"64 px, cut from 72 px, and .* for 224 px.*: give --data"
    ):
        choose_sizes(None, None, [small, large])


def test_a_checkpoint_of_an_older_version_has_its_sizes_in_the_configuration(runs):
    old = save(runs / "small" / "checkpoints" / "best.ckpt")
    assert choose_sizes(None, None, [old]) == Sizes(224, 256)
    config = runs / "small" / "config.yaml"
    config.write_text(yaml.safe_dump({"data": {"image_size": 48, "resize_size": 56}}))
    assert choose_sizes(None, None, [old]) == Sizes(48, 56)
    for text in ("", "[1]", "data: 3", "data: [", "data: {}", "!!python/object:os.system {}"):
        config.write_text(text)
        assert choose_sizes(None, None, [old]) == Sizes(224, 256)
