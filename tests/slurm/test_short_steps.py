"""However short the batches are, the ranks always agree between which two of them they stop."""

from __future__ import annotations

import random
import shlex
import sys
from functools import partial
from pathlib import Path

import pytest

from datamodules.audit.verdict import audit
from tests.slurm.jobs import Job
from tests.slurm.runs import REPOSITORY

pytestmark = pytest.mark.slurm
SIGNALS = 20


def test_twenty_signals_during_batches_of_milliseconds_never_leave_two_ranks_waiting(workplace):
    flags = ["--data.root", str(workplace.shards), "--data.batch_size", "2", "--data.workers", "0"]
    flags += ["--data.image_size", "16", "--data.resize_size", "16", "--data.audit_dir", "audit"]
    flags += ["--trainer.accelerator", "cpu", "--trainer.num_nodes", "2", "--trainer.devices", "1"]
    flags += ["--trainer.max_epochs", "100000", "--trainer.enable_progress_bar", "false"]
    flags += ["--evidence_images", "0", "--resume", "auto"]
    script = Path(__file__).with_name("short_steps.py")
    words = shlex.join([sys.executable, str(script), str(SIGNALS), *flags])
    variables = f"PYTHONPATH={REPOSITORY} WANDB_MODE=disabled OMP_NUM_THREADS=1"
    where = ("--nodes=2", "--ntasks-per-node=1", "--no-requeue", "--output=slurm-%j.log")
    job = workplace.queue(*where, "--wrap", f"{variables} srun {words}")
    draw = random.Random(0)
    for stop in range(SIGNALS):
        workplace.wait_for_step(job, ranks=2, step=draw.randint(1, 60))
        job.cluster.run("scancel", "--signal=USR1", job.number)
        job.until(partial(stopped, job, stop), f"stop {stop} of both ranks")
    job.until_state("COMPLETED")
    report = audit(workplace.folder / "audit")
    assert report.problems == []
    assert report.restarts == SIGNALS - 1
    assert sum(epoch.redone for epoch in report.epochs) <= SIGNALS - 1


def stopped(job: Job, stop: int) -> bool:
    return job.log.read_text().count(f"stop {stop}: ") == 2
