"""The scale benchmark: predictions as a table, and real ranks to check them against."""

from __future__ import annotations

import json

import pytest

from bagnet.bench.__main__ import main
from bagnet.bench.lib import ranks
from bagnet.bench.lib.scaling import Parts, predict, ring_seconds


def test_the_predictions_of_all_numbers_of_gpus_are_told(tmp_path, said):
    out = tmp_path / "figures.json"
    assert main(["scale", "--rate", "1000", "--gpus", "8", "4096", "--out", str(out)]) == 0
    predictions = json.loads(out.read_text())["predictions"]
    assert [each["gpus"] for each in predictions] == [8, 4096]
    assert predictions[0]["rate"] == predict(Parts(rate=1000), 8).rate
    assert f"{predictions[1]['rate']:,.0f}" in said()


def test_the_options_units_and_defaults_are_in_the_help(capsys):
    with pytest.raises(SystemExit):
        main(["scale", "--help"])
    text = " ".join(capsys.readouterr().out.split())
    assert "--network-gbs NETWORK_GBS network between nodes, in GB/s of each GPU (40)" in text


def test_a_part_that_is_nothing_is_one_line(capsys):
    assert main(["scale", "--network-gbs", "0"]) == 2
    assert "--network-gbs 0.0: it must be above 0" in capsys.readouterr().err


def test_ranks_that_share_cores_compute_for_longer_and_reduce_in_a_ring():
    size, bandwidth, latency = 1e6, 1e8, 1e-4
    one = {"step": 0.5, "share": 1.0}
    two = {"few": ring_seconds(4, 2, bandwidth, latency), "share": 1.0}
    two["many"] = ring_seconds(size, 2, bandwidth, latency)
    found = {1: one, 2: two, 4: {"share": 0.5}}
    assert ranks.predict(1, found, size)["step"] == 0.5
    assert ranks.predict(2, found, size)["step"] == pytest.approx(0.5 + two["many"], rel=1e-4)
    four = ranks.predict(4, found, size)
    assert four["many"] == pytest.approx(ring_seconds(size, 4, bandwidth, latency), rel=1e-4)
    assert four["step"] == pytest.approx(1.0 + four["many"])


def test_the_check_measures_real_ranks(monkeypatch, tmp_path, said):
    monkeypatch.setattr(ranks, "RANKS", (1, 2))
    flags = ["--check", "--width", "1", "--steps", "1", "--rounds", "1"]
    assert main(["scale", *flags, "--out", str(tmp_path / "figures.json")]) == 0
    figures = json.loads((tmp_path / "figures.json").read_text())
    assert list(figures["measured"]) == ["1 ranks", "2 ranks"]
    for ((seconds),) in figures["measured"].values():
        assert set(seconds) == {"step", "few", "many", "share"}
        assert min(seconds.values()) > 0
    text = said()
    assert "step, 2 ranks" in text
    assert text.count("an input") == 4  # those of the table, and the line about cores
