"""`--trainer.profiler pytorch` leaves a trace of a few steps in the run's folder."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
import torch

from bagnet.training.monitoring.profiling import Trace, Unprofiled, profiler_of
from tests.trainings import train

FLAGS = ("--name", "x", "--trainer.profiler", "pytorch", "--trainer.max_epochs")


@pytest.fixture(autouse=True)
def working_directory(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def test_a_trace_has_five_steps_with_what_torch_and_lightning_do(shards, capsys):
    assert train(shards, *FLAGS, "3") == 0
    out = capsys.readouterr().out
    assert re.findall(r"^trace +(\S+)", out, re.MULTILINE) == ["runs/x/trace.json"]
    events = json.loads(Path("runs/x/trace.json").read_text())["traceEvents"]
    names = [event["name"] for event in events]
    assert sorted({name for name in names if name.startswith("ProfilerStep")}) == sorted(
        f"ProfilerStep#{step}" for step in range(8, 13)
    )
    assert {"aten::conv2d", "run_training_batch", "Optimizer.step#SGD.step"} <= set(names)
    assert not torch.autograd._profiler_enabled()


def test_a_training_that_is_too_short_says_so(shards, capsys):
    assert train(shards, *FLAGS, "1") == 0
    assert "trace        none, because it begins after 8 steps" in capsys.readouterr().out
    assert not Path("runs/x/trace.json").exists()


def test_only_rank_0_records_and_all_else_is_lightnings(monkeypatch, tmp_path):
    assert isinstance(profiler_of("pytorch", tmp_path), Trace)
    assert profiler_of("pytorch", None) == "pytorch"
    assert profiler_of("simple", tmp_path) == "simple"
    assert isinstance(profiler_of(None, tmp_path), Unprofiled)
    monkeypatch.setenv("LOCAL_RANK", "1")
    assert isinstance(profiler_of("pytorch", tmp_path), Unprofiled)
