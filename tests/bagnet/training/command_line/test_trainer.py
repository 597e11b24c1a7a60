"""Settings of Lightning's Trainer."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from datetime import timedelta
from pathlib import Path

import pytest
from pytorch_lightning.strategies import StrategyRegistry

from bagnet.training.command_line.trainer import ddp_settings, default_precision, prepare_devices

REPOSITORY = Path(__file__).parents[4]

RANK = """
import faulthandler
import json
import sys
from contextlib import nullcontext
import torch
from torch.nn.parallel import DistributedDataParallel
from bagnet.model.network import BagNet

faulthandler.dump_traceback_later(280, exit=True)  # to see where the ranks hang, if they do
rank, meeting, settings = int(sys.argv[1]), sys.argv[2], json.loads(sys.argv[3])
torch.set_num_threads(1)
torch.distributed.init_process_group("gloo", f"file://{meeting}", rank=rank, world_size=2)

def train(accumulated, **settings):
    torch.manual_seed(0)
    model = BagNet(9, num_classes=5, width=2)
    parallel = DistributedDataParallel(model, **settings)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    data, gradients = torch.Generator().manual_seed(rank), []
    for _ in range(2):
        for batch in range(accumulated):
            with nullcontext() if batch == accumulated - 1 else parallel.no_sync():
                parallel(torch.randn(2, 3, 17, 18, generator=data)).square().sum().backward()
        gradients += [parameter.grad.clone() for parameter in model.parameters()]
        optimizer.step()
        optimizer.zero_grad()
    return gradients

for accumulated, ours in zip((1, 2), settings):
    expected, found = train(accumulated), train(accumulated, **ours)
    assert all(g.abs().sum() > 0 for g in expected)
    torch.testing.assert_close(found, expected, rtol=1e-6, atol=1e-9)
torch.distributed.destroy_process_group()
print("same")
"""


@pytest.mark.slow
def test_gradients_of_two_ranks_do_not_depend_on_how_they_are_exchanged(tmp_path):
    settings = json.dumps([ddp_settings(accumulated) for accumulated in (1, 2)])
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY)}
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", RANK, str(rank), str(tmp_path / "meeting"), settings],
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for rank in range(2)
    ]
    outputs = [process.communicate(timeout=300)[0] for process in processes]
    assert [output.strip().splitlines()[-1] for output in outputs] == ["same"] * 2, outputs


def test_a_graph_is_static_unless_steps_accumulate():
    assert ddp_settings(1)["static_graph"]
    assert not ddp_settings(2)["static_graph"]


def prepared(**config):
    defaults = {"accelerator": "cpu", "devices": "auto", "num_nodes": 1, "precision": None}
    defaults |= {"accumulate_grad_batches": 1, "benchmark": None, "deterministic": None}
    return prepare_devices({"strategy": "auto", **defaults, **config})


def test_trainings_use_these_settings():
    assert prepared(accumulate_grad_batches=3)["precision"] == "32-true"
    timeout = {"timeout": timedelta(minutes=11)}  # one more than ranks wait for each other
    assert StrategyRegistry["ddp"]["init_params"] == ddp_settings(3) | timeout


@pytest.mark.parametrize(
    ("config", "benchmark"),
    [({}, True), ({"deterministic": True}, False), ({"benchmark": False}, False)],
)
def test_cudnn_searches_for_the_fastest_convolutions_unless_told_otherwise(config, benchmark):
    assert prepared(**config)["benchmark"] == benchmark


@pytest.mark.parametrize(("native", "precision"), [(True, "bf16-mixed"), (False, "16-mixed")])
def test_a_gpu_that_emulates_bfloat16_trains_in_float16(monkeypatch, native, precision):
    monkeypatch.setattr(
        "torch.cuda.is_bf16_supported",
        lambda including_emulation=True: including_emulation or native,
    )
    assert default_precision(on_gpu=True) == precision
    assert default_precision(on_gpu=False) == "32-true"
