"""What a run's checkpoint was trained on, and how people name a run."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from bagnet.run.trained import Sizes, choose_sizes, class_list, data_settings, find_checkpoint


@pytest.fixture
def runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of two runs: `small` with both checkpoints, and `large` with the last one."""
    monkeypatch.setenv("BAGNET_RUNS", str(tmp_path / "runs"))
    for name, size in (("small", 64), ("large", 224)):
        run = tmp_path / "runs" / name
        (run / "checkpoints").mkdir(parents=True)
        (run / "checkpoints" / "last.ckpt").write_bytes(b"last")
        data = {"image_size": size, "resize_size": size + 8, "root": str(tmp_path / "shards")}
        (run / "config.yaml").write_text(yaml.safe_dump({"data": data, "model": {}}))
    (tmp_path / "runs" / "small" / "checkpoints" / "best.ckpt").write_bytes(b"best")
    return tmp_path / "runs"


def test_a_run_is_named_by_its_name_its_folder_or_a_file_of_it(runs, monkeypatch):
    best, last = (runs / "small" / "checkpoints" / f"{name}.ckpt" for name in ("best", "last"))
    for text in ("small", runs / "small", f"{runs / 'small'}/", best):
        assert find_checkpoint(text) == best
    assert find_checkpoint(last) == last
    assert find_checkpoint("large").name == "last.ckpt"
    monkeypatch.chdir(runs.parent)
    assert find_checkpoint("runs/large") == Path("runs/large/checkpoints/last.ckpt")
    assert data_settings(find_checkpoint("runs/large"))["image_size"] == 224


def test_what_is_neither_a_file_nor_a_run_is_one_message(runs):
    with pytest.raises(ValueError, match=r"there is neither a file nothing nor a run .*/nothing"):
        find_checkpoint("nothing")
    (runs / "empty").mkdir()
    with pytest.raises(ValueError, match=r"empty has no checkpoint"):
        find_checkpoint("empty")


def test_the_sizes_are_those_of_the_run_unless_others_are_given(runs, tmp_path):
    small, large = find_checkpoint("small"), find_checkpoint("large")
    other = tmp_path / "weights.pth"
    assert choose_sizes(None, None, [small]) == Sizes(64, 72)
    assert choose_sizes(None, None, [other, small]) == Sizes(64, 72)
    assert choose_sizes(96, None, [small]) == Sizes(96, 72)
    assert choose_sizes(None, None, [other]) == choose_sizes(None, None, []) == Sizes(224, 256)
    assert choose_sizes(96, 96, [small, large]) == Sizes(96, 96)
    with pytest.raises(
        ValueError, match=r"64 px, cut from 72 px, and .* for 224 px.*: give --data"
    ):
        choose_sizes(None, None, [small, large])


def test_the_classes_are_those_of_the_runs_data_while_it_is_there(runs, tmp_path):
    assert class_list(find_checkpoint("small")) is None
    manifest = tmp_path / "shards" / "val" / "manifest.json"
    manifest.parent.mkdir(parents=True)
    manifest.write_text("{}")
    assert class_list(find_checkpoint("small")) == manifest


@pytest.mark.parametrize("text", ["", "[1]", "data: 3", "data: [", "!!python/object:os.system {}"])
def test_another_file_beside_a_checkpoint_says_nothing(text, runs):
    (runs / "small" / "config.yaml").write_text(text)
    assert data_settings(find_checkpoint("small")) == {}
