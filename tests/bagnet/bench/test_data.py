"""The data benchmark: real measurements of tiny data, told in a table and in JSON."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from bagnet.bench.__main__ import main

REPOSITORY = Path(__file__).parents[3]


def test_variants_are_measured_in_turn_and_told_as_ratios(shards, tmp_path, capsys):
    flags = ["--batch-size", "16", "--image-size", "32", "--seconds", "0.1", "--rounds", "1"]
    flags += ["--other", str(REPOSITORY), str(shards), "--out", str(tmp_path / "figures.json")]
    assert main(["data", str(shards), *flags]) == 0
    figures = json.loads((tmp_path / "figures.json").read_text())
    rates = figures["images_per_second"]
    usual = ["imagefolder", "imagefolder_uint8", "webdataset"]
    assert list(rates) == [*usual, "whole", "ours", "other"]
    assert all(len(values) == 1 and values[0] > 0 for values in rates.values())
    assert {"torch", "torchvision", "webdataset", "python", "machine"} < set(figures)
    said = capsys.readouterr().out
    assert f"{rates['ours'][0] / rates['imagefolder'][0]:.2f}" in said


def test_the_ceiling_tells_each_stage_and_the_cores_that_a_rate_needs(shards, tmp_path, capsys):
    flags = ["--ceiling", "--rate", "5000", "--batch-size", "8", "--image-size", "32"]
    out = tmp_path / "figures.json"
    assert main(["data", str(shards), *flags, "--seconds", "0.2", "--out", str(out)]) == 0
    figures = json.loads(out.read_text())
    seconds = figures["seconds_per_image"]
    stages = ["read", "header", "draw", "decode", "resize and flip", "batch and hand-over"]
    assert set(seconds) >= {*stages, "pipeline"}
    assert all(seconds[stage] > 0 for stage in stages)
    on_cores = sum(time for stage, time in seconds.items() if stage != "copy to the GPU")
    assert figures["cores"] == pytest.approx(5000 * on_cores)
    said = capsys.readouterr().out
    assert f"{seconds['decode'] * 1e6:.1f}" in said
    assert f"needs {figures['cores']:.1f}" in said


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
