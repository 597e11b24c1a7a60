"""SLURM jobs: what is recorded about them, and which set-ups are refused."""

from __future__ import annotations

import os

import pytest

from bagnet.run import slurm


@pytest.fixture(autouse=True)
def no_job(monkeypatch):
    for name in [name for name in os.environ if name.startswith("SLURM")]:
        monkeypatch.delenv(name)


@pytest.fixture
def task(monkeypatch):
    """Makes this process a task of a job."""

    def become(**variables):
        everywhere = {"JOB_ID": "7", "JOB_NAME": "bagnet", "PROCID": "0", "STEP_NUM_TASKS": "16"}
        for name, value in {**everywhere, **variables}.items():
            if value is not None:
                monkeypatch.setenv(f"SLURM_{name}", value)

    return become


def test_the_record_of_a_start_names_its_job(task):
    assert slurm.facts() == {}
    task(JOB_NODELIST="node[1-2]")
    assert slurm.facts() == {
        "slurm_job_id": "7",
        "slurm_restart_count": 0,
        "slurm_nodes": "node[1-2]",
    }
    task(ARRAY_JOB_ID="5", ARRAY_TASK_ID="2", RESTART_COUNT="3")
    assert slurm.facts()["slurm_job_id"] == "5_2"
    assert slurm.facts()["slurm_restart_count"] == 3


@pytest.mark.parametrize(
    ("variables", "devices", "nodes", "message"),
    [
        ({}, 8, 1, "srun started 16 tasks for 1 nodes with 8 devices"),
        ({"PROCID": None, "STEP_NUM_TASKS": None}, 8, 2, "srun did not start this process"),
        ({"GPUS_PER_TASK": "1"}, 8, 2, "use --gpus-per-node=8 instead"),
        ({"JOB_NAME": "interactive", "NTASKS": "4"}, 4, 1, "salloc -J dev"),
        ({"JOB_NAME": "bash", "NTASKS": "2"}, 2, 1, "each task would train alone"),
    ],
)
def test_a_set_up_that_cannot_work_is_refused_with_the_remedy(
    task, variables, devices, nodes, message
):
    task(**variables)
    with pytest.raises(ValueError, match=message):
        slurm.check_setup(devices, nodes)


@pytest.mark.parametrize(
    ("variables", "devices", "nodes"),
    [
        ({}, 8, 2),
        ({"PROCID": None, "STEP_NUM_TASKS": None}, 8, 1),  # python in a job, without srun
        ({"JOB_NAME": "bash", "NTASKS": "1"}, 1, 1),
    ],
)
def test_set_ups_that_work_are_left_alone(task, variables, devices, nodes):
    slurm.check_setup(devices, nodes)  # no job
    task(**variables)
    slurm.check_setup(devices, nodes)
