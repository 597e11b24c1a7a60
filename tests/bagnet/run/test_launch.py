"""Who starts the ranks: what follows for the Trainer, and which set-ups are refused."""

from __future__ import annotations

import os

import pytest
from lightning_fabric.plugins.environments.lightning import LightningEnvironment
from lightning_fabric.plugins.environments.slurm import SLURMEnvironment
from lightning_fabric.plugins.environments.torchelastic import TorchElasticEnvironment

from bagnet.run.launch import STRATEGIES, check_strategy, launch_settings

BATCH = {"JOB_ID": "7", "JOB_NAME": "bagnet", "PROCID": "0", "NTASKS": "16", "NNODES": "2"}
"""What SLURM tells the script of a job, and all that the script starts without srun."""
SRUN = {"STEP_NUM_TASKS": "16", "STEP_NUM_NODES": "2", "STEP_TASKS_PER_NODE": "8(x2)"}
TORCHRUN = {"LOCAL_WORLD_SIZE": "8", "GROUP_WORLD_SIZE": "2", "WORLD_SIZE": "16"}


@pytest.fixture(autouse=True)
def nobody(monkeypatch):
    """Neither SLURM nor torchrun has started these tests."""
    for name in [name for name in os.environ if name.startswith(("SLURM", "TORCHELASTIC"))]:
        monkeypatch.delenv(name)


@pytest.fixture
def srun(monkeypatch):
    """Makes this process a task of a job."""

    def become(**variables):
        for name, value in {**BATCH, **SRUN, **variables}.items():
            monkeypatch.setenv(f"SLURM_{name}", value)

    return become


@pytest.fixture
def torchrun(monkeypatch):
    """Makes this process one that torchrun has started."""

    def become(**variables):
        for name, value in {"TORCHELASTIC_RUN_ID": "x", **TORCHRUN, **variables}.items():
            monkeypatch.setenv(name, value)

    return become


def launched(devices="auto", nodes=1):
    settings = launch_settings(devices, nodes)
    (environment,) = settings["plugins"]
    return type(environment), settings["devices"], settings["num_nodes"]


def test_on_one_node_lightning_starts_the_ranks():
    assert launched() == (LightningEnvironment, "auto", 1)
    assert launched(8) == (LightningEnvironment, 8, 1)


def test_the_script_of_a_job_is_no_rank_of_it(monkeypatch):
    # Lightning alone takes it for one, and then trains on one device, or waits forever.
    for name, value in BATCH.items():
        monkeypatch.setenv(f"SLURM_{name}", value)
    assert launched(8) == (LightningEnvironment, 8, 1)


def test_a_task_that_srun_started_alone_starts_the_other_ranks(srun):
    srun(STEP_NUM_TASKS="1", STEP_NUM_NODES="1", STEP_TASKS_PER_NODE="1", JOB_NAME="interactive")
    assert launched(4) == (LightningEnvironment, 4, 1)


@pytest.mark.parametrize(("devices", "nodes"), [("auto", 1), (8, 2), ("8", 1)])
def test_srun_says_how_many_devices_and_nodes_there_are(srun, devices, nodes):
    srun(JOB_NAME="interactive")  # then Lightning alone does not look for tasks
    kind, found, on = launched(devices, nodes)
    assert (kind, int(found), on) == (SLURMEnvironment, 8, 2)


def test_srun_need_not_be_told_the_tasks_of_each_node(srun):
    srun(NTASKS="8", NTASKS_PER_NODE="4", STEP_NUM_TASKS="8", STEP_TASKS_PER_NODE="8")
    settings = launch_settings("auto", 1)
    settings["plugins"][0].validate_settings(settings["devices"], settings["num_nodes"])


@pytest.mark.parametrize(("devices", "nodes"), [("auto", 1), (8, 2), (8, 1)])
def test_torchrun_says_how_many_devices_and_nodes_there_are(torchrun, devices, nodes):
    torchrun()
    assert launched(devices, nodes) == (TorchElasticEnvironment, 8, 2)


def test_torchrun_counts_in_a_job_too(torchrun, srun):
    torchrun()
    srun(STEP_NUM_TASKS="2", STEP_TASKS_PER_NODE="1(x2)")
    assert launched() == (TorchElasticEnvironment, 8, 2)


@pytest.mark.parametrize(
    ("variables", "devices", "nodes", "message"),
    [
        ({}, 4, 2, "srun started 8 processes on each of 2 nodes.* 4 devices .* --gpus 8"),
        ({}, "auto", 4, "8 devices on 4; each device needs one process: --gpus 8 --nodes 2"),
        ({"STEP_TASKS_PER_NODE": "9,7"}, 8, 2, "srun started 9,7 tasks .* --ntasks-per-node"),
        ({"GPUS_PER_TASK": "1"}, 8, 2, "use --gpus-per-node=8 instead"),
    ],
)
def test_tasks_that_do_not_fit_are_refused_with_the_remedy(
    srun, variables, devices, nodes, message
):
    srun(**variables)
    with pytest.raises(ValueError, match=message):
        launch_settings(devices, nodes)


@pytest.mark.parametrize(
    ("variables", "devices", "message"),
    [
        ({}, 4, "torchrun started 8 processes on each of 2 nodes.* 4 devices .* --gpus 8"),
        ({"WORLD_SIZE": "12"}, "auto", "started 12 processes on 2 nodes; .* --nproc_per_node"),
        ({"SLURM_STEP_NUM_TASKS": "4"}, 8, "torchrun 4 times for 2 nodes.* --nnodes 4"),
    ],
)
def test_processes_of_torchrun_that_do_not_fit_are_refused(torchrun, variables, devices, message):
    torchrun(**variables)
    with pytest.raises(ValueError, match=message):
        launch_settings(devices, 1)


def test_several_nodes_need_a_launcher():
    with pytest.raises(ValueError, match="--nodes 2: nothing starts .* use srun or torchrun"):
        launch_settings(8, 2)


def test_strategies_that_would_fail_later_are_refused():
    for strategy in STRATEGIES:
        check_strategy(strategy)
    for strategy in ("ddp_spawn", "ddp_fork", "ddp_notebook", "fsdp", "deepspeed_stage_2"):
        with pytest.raises(ValueError, match=f"strategy {strategy}: .*; choose auto, ddp or ddp_f"):
            check_strategy(strategy)
