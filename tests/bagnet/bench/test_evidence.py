"""The evidence benchmark: all ways are measured in turn, and must give the same map."""

from __future__ import annotations

import json

import torch

from bagnet.bench import evidence
from bagnet.bench.__main__ import main

TINY = ["evidence", "--patch", "9", "--width", "2", "--image-size", "10", "--rounds", "2"]


def test_every_way_is_measured_in_every_round_and_told_as_a_ratio(tmp_path, capsys):
    assert main([*TINY, "--out", str(tmp_path / "figures.json")]) == 0
    figures = json.loads((tmp_path / "figures.json").read_text())
    rates = figures["pixels_per_second"]
    assert list(rates) == ["single", "batches", "shifts", "dense"]
    assert all(len(values) == 2 and min(values) > 0 for values in rates.values())
    assert figures["settings"]["patch"] == "9"
    ratio = sum(rates["dense"]) / sum(rates["single"])  # the median of two is their mean
    assert f"{ratio:.2f}" in capsys.readouterr().out


def test_a_way_that_gives_another_map_is_not_compared(monkeypatch, capsys):
    monkeypatch.setitem(evidence.WAYS, "shifts", lambda model, image: torch.zeros(8, 8))
    assert main(TINY) == 2
    assert "shifts differs by" in capsys.readouterr().err


def test_a_patch_that_no_bagnet_has_is_one_line(capsys):
    assert main([*TINY[:2], "12"]) == 2
    assert "choose 9, 17 or 33" in capsys.readouterr().err
