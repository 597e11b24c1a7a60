"""Sweeps: an array of three networks, one of which is preempted; trials that agents submit."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path

import pytest
import yaml

from tests.slurm.cluster import PATIENCE, until
from tests.slurm.jobs import Job
from tests.slurm.runs import (
    CPU,
    REPOSITORY,
    TINY,
    Workplace,
    check_as_if_undisturbed,
    curve,
    records,
)

pytestmark = pytest.mark.slurm
PATCHES = (9, 17, 33)


def sweep(workplace: Workplace) -> list[Job]:
    """Submit the array; two tasks run on the first node and one on the second."""
    lines = [f"bagnet{patch} --patch {patch} --data.audit_dir audit{patch}" for patch in PATCHES]
    (workplace.folder / "list.txt").write_text("\n".join(lines))
    where = ("--nodes=1", "--ntasks-per-node=1", *CPU, "--cpus-per-task=32")
    flags = ("--data.image_size", "40", "--data.resize_size", "44", "--data.workers", "0")
    words = [*TINY, "--data.root", str(workplace.shards), *flags, "--trainer.max_epochs", "4"]
    words += ["--evidence_images", "2"]
    array = workplace.queue(*where, "slurm/sweep.sbatch", "list.txt", *words)
    return [Job(array.cluster, f"{array.number}_{task}", array.folder) for task in range(3)]


def test_one_of_three_networks_is_preempted_and_no_result_shows_it(cluster, shards, tmp_path):
    whole = Workplace(tmp_path / "whole", cluster, shards)
    for job in sweep(whole):
        job.until_state("COMPLETED")

    work = Workplace(tmp_path / "work", cluster, shards)
    jobs = sweep(work)
    work.wait_for_step(jobs[2], ranks=1, step=5, audited="audit33")
    jobs[2].preempt()
    for job, patch in zip(jobs, PATCHES, strict=True):
        job.until_state("COMPLETED")
        undisturbed = curve(whole.folder, f"bagnet{patch}")
        check_as_if_undisturbed(
            work.folder, undisturbed, f"bagnet{patch}", f"audit{patch}", redone=1
        )
    assert [job.starts for job in jobs] == [1, 1, 2]


def start_trial(workplace: Workplace, trial: str, rate: str) -> subprocess.Popen[bytes]:
    """Run what a W&B agent runs on the login node, with the variables that the agent sets."""
    sweep = yaml.safe_load((REPOSITORY / "configs" / "sweep.yaml").read_text())
    python, train, *words, args = sweep["command"]
    assert (python, train, args) == ("python", "train.py", "${args}")
    where = ("--nodes=1", "--ntasks-per-node=1", *CPU, f"--output=slurm-{trial}-%j.log")
    small = [*TINY, "--patch", "9", "--data.train_sizes", "null", "--data.audit_dir", trial]
    small += [f"--model.learning_rate={rate}"]
    return subprocess.Popen(
        ["sbatch", "--wait", *where, "slurm/train.sbatch", *words, *small],
        cwd=workplace.folder,
        env={
            **os.environ,
            "SLURM_CONF": str(workplace.cluster.conf),
            "SHARDS": str(workplace.shards),
            "WANDB_SWEEP_ID": "abc",
            "WANDB_RUN_ID": trial,
            "WANDB_DIR": str(workplace.folder),
        },
    )


def test_the_trials_of_agents_are_jobs_that_keep_their_folders(workplace):
    (workplace.folder / "configs").symlink_to(REPOSITORY / "configs")
    rates = {"5x1trial": "0.1", "9kbtrial": "0.3"}
    agents = {trial: start_trial(workplace, trial, rate) for trial, rate in rates.items()}
    log = until(
        lambda: next(workplace.folder.glob("slurm-5x1trial-*.log"), None),
        "the output of a trial",
        workplace.cluster.logs,
    )
    job = Job(workplace.cluster, log.stem.rpartition("-")[2], workplace.folder)
    workplace.wait_for_step(job, ranks=1, audited="5x1trial")
    job.warn()
    job.until_requeued(1)
    for trial, rate in rates.items():
        assert agents[trial].wait(PATIENCE) == 0, job.told()
        run = workplace.folder / "runs" / trial
        starts = [json.loads(line) for line in (run / "starts.jsonl").read_text().splitlines()]
        assert len(starts) == (2 if trial == "5x1trial" else 1)
        config = yaml.safe_load((run / "config.yaml").read_text())
        assert config["model"]["learning_rate"] == float(rate)
        assert curve(workplace.folder, trial)[-1]["val/top1"]
        ids = {record.run.run_id for file in offline(workplace, trial) for record in records(file)}
        assert ids - {""} == {trial}
        assert len(offline(workplace, trial)) == len(starts)
    assert {path.name for path in (workplace.folder / "runs").iterdir()} == {*rates}


def offline(workplace: Workplace, trial: str) -> list[Path]:
    return sorted(workplace.folder.glob(f"wandb/offline-run-*/run-{trial}.wandb"))
