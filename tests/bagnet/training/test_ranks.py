"""Two real ranks: what a step exchanges, and that the ranks stay equal."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

REPOSITORY = Path(__file__).parents[3]


def train(out: Path, *words: str) -> list[dict[str, Any]]:
    """What the two ranks of `ranks.py` saw."""
    out.mkdir()
    command = [sys.executable, "-m", "tests.bagnet.training.ranks", str(out), *words]
    subprocess.run(command, cwd=REPOSITORY, check=True, timeout=300)
    return [torch.load(out / f"{rank}.pt", weights_only=True) for rank in (0, 1)]


@pytest.fixture(scope="module")
def ranks(tmp_path_factory):
    return train(tmp_path_factory.mktemp("ranks") / "plain")


def exchanged(rank: dict[str, Any]) -> dict[str, int]:
    return {name: count for name, count in rank["operations"].items() if name.startswith("c10d::")}


@pytest.mark.slow
def test_a_step_exchanges_gradients_and_nothing_else(ranks):
    """Neither buffers, nor Lightning's question for SIGTERM. This network fits into one bucket."""
    assert exchanged(ranks[0]) == exchanged(ranks[1]) == {"c10d::allreduce_": 1}


@pytest.mark.slow
def test_gradients_are_copied_for_the_exchange_all_at_once(ranks):
    assert ranks[0]["operations"]["aten::_foreach_copy_"] == 1
    assert "torch::distributed::reducer::mul_out" not in ranks[0]["operations"]  # one by one


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["weights", "buffers"])
def test_ranks_have_equal_weights_and_validate_with_equal_statistics(ranks, kind):
    mine, others = (rank[kind] for rank in ranks)
    assert mine
    assert mine.keys() == others.keys()
    assert all(torch.equal(mine[name], others[name]) for name in mine)


@pytest.mark.slow
def test_a_compiled_network_trains_on_two_ranks_as_the_plain_one_does(ranks, tmp_path):
    compiled = train(tmp_path / "compiled", "compiled")
    for rank in (0, 1):
        assert exchanged(compiled[rank]) == exchanged(ranks[rank])
        for name, weights in ranks[rank]["weights"].items():
            assert torch.equal(compiled[rank]["weights"][name], weights)


@pytest.mark.slow
def test_gradients_of_layers_that_were_frozen_are_exchanged_after_the_thaw(ranks, tmp_path):
    mine, others = (rank["weights"] for rank in train(tmp_path / "thawed", "thawed"))
    assert all(torch.equal(mine[name], others[name]) for name in mine)
    assert not torch.equal(mine["model.conv1.weight"], ranks[0]["weights"]["model.conv1.weight"])
