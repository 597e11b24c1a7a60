"""What a run's checkpoint was trained on."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
import yaml

from bagnet.model.sources import find_run
from bagnet.run.trained import Sizes, choose_sizes


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


def test_the_sizes_are_those_of_the_run_unless_others_are_given(runs, tmp_path):
    small, large = find_run("small"), find_run("large")
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
