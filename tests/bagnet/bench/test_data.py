"""The data benchmark: real measurements of tiny data, told in a table and in JSON."""

from __future__ import annotations

import json
from pathlib import Path

from bagnet.bench.__main__ import main

REPOSITORY = Path(__file__).parents[3]


def test_variants_are_measured_in_turn_and_told_as_ratios(shards, tmp_path, capsys):
    flags = ["--batch-size", "16", "--image-size", "32", "--seconds", "0.1", "--rounds", "1"]
    flags += ["--other", str(REPOSITORY), str(shards), "--out", str(tmp_path / "figures.json")]
    assert main(["data", str(shards), *flags]) == 0
    figures = json.loads((tmp_path / "figures.json").read_text())
    rates = figures["images_per_second"]
    assert list(rates) == ["ours", "webdataset", "imagefolder", "other"]
    assert all(len(values) == 1 and values[0] > 0 for values in rates.values())
    assert {"torch", "torchvision", "webdataset", "python", "machine"} < set(figures)
    said = capsys.readouterr().out
    assert f"{rates['webdataset'][0] / rates['ours'][0]:.2f}" in said


def test_what_cannot_be_measured_is_one_line(tmp_path, capsys):
    flags = ["--variants", "ours", "--rounds", "1"]
    assert main(["data", str(tmp_path / "nowhere"), *flags]) == 2
    assert "ours of" in (said := capsys.readouterr().err)
    assert "nowhere does not exist" in said
    assert main(["speed"]) == 2
    assert "no benchmark 'speed'; there is data, evidence" in capsys.readouterr().err


def test_help_names_the_benchmarks(capsys):
    assert main([]) == 0
    assert "data      How many images a second" in capsys.readouterr().out
