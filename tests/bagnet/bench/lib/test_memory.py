"""The search for the largest batch. That it fills a GPU can only be seen on one."""

from __future__ import annotations

import json
from argparse import Namespace
from types import SimpleNamespace

import pytest
import torch

from bagnet.bench.lib import memory
from bagnet.bench.lib.steps import REFERENCE


@pytest.mark.parametrize("limit", [0, 7, 8, 9, 63, 64, 65, 1000])
def test_the_largest_batch_is_found_in_few_tries(limit):
    tried: list[int] = []

    def fits(size: int) -> bool:
        tried.append(size)
        return size <= limit

    assert memory.largest(fits) == limit // 8 * 8
    assert len(tried) <= 2 * len(f"{limit:b}")
    assert len(set(tried)) == len(tried)


def test_the_price_of_checkpointing_is_told_at_the_same_batch_and_at_the_largest(
    monkeypatch, tmp_path, said
):
    limits = {"channels-last": 24, "checkpointed": 100}

    def rate(way, batch, steps, options, device):
        return 1000.0 / steps if batch <= limits[way] else None

    monkeypatch.setattr(memory, "_rate", rate)
    gpu = SimpleNamespace(total_memory=2**37)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda device: gpu)
    options = Namespace(
        variants=[REFERENCE, "checkpointed"], batch_size=32, steps=5, out=tmp_path / "figures.json"
    )
    memory.measure(options, torch.device("cuda"))
    rows = {line.split()[0]: line.split()[1:] for line in said().splitlines() if line.split()}
    assert rows["channels-last"] == ["24", "does", "not", "fit", "200"]
    assert rows["checkpointed"] == ["96", "200", "200"]
    figures = json.loads(options.out.read_text())
    assert figures["total_gib"] == 128
    assert figures["memory"]["channels-last"]["rate"] is None
