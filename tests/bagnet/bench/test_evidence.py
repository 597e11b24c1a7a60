"""The evidence benchmark: all variants are measured in turn, and must give the same map."""

from __future__ import annotations

import torch

from bagnet.bench import evidence

TINY = ["evidence", "--model", "bagnet9", "--width", "2", "--image_size", "10", "--rounds", "2"]
TINY += ["--device", "cpu"]


def test_every_variant_is_measured_in_every_round_and_printed_as_a_ratio(figures, output):
    found = figures(*TINY)
    rates = found["pixels_per_second"]
    assert list(rates) == ["single", "batches", "shifts", "dense"]
    assert all(len(values) == 2 and min(values) > 0 for values in rates.values())
    assert found["settings"]["model"] == "bagnet9"
    ratio = sum(rates["dense"]) / sum(rates["single"])  # the median of two is their mean
    assert f"{ratio:.2f}" in output()


def test_a_variant_that_gives_another_map_is_not_compared(monkeypatch, error):
    monkeypatch.setitem(evidence.WAYS, "shifts", lambda model, image: torch.zeros(8, 8))
    assert "shifts differs by" in error(*TINY)
