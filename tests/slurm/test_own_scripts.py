"""The README's job, and jobs whose scripts are not ours: other starters, and torchrun's signals."""

from __future__ import annotations

import shlex
import socket
import sys

import pytest

from datamodules.audit.verdict import audit
from tests.slurm.cluster import until
from tests.slurm.jobs import Job
from tests.slurm.runs import CPU, REPOSITORY, TINY, Workplace
from tests.test_project import commands_of

pytestmark = pytest.mark.slurm
PYTHON = shlex.quote(sys.executable)


def queue(workplace: Workplace, nodes: int, starter: str, *flags: str) -> Job:
    """Submit a job without any of our scripts, which runs `STARTER train.py FLAGS`."""
    words = [*TINY, "--patch", "9", "--data.audit_dir", "audit", "--trainer.accelerator", "cpu"]
    words += ["--data.root", str(workplace.shards), "--resume", "auto", *flags]
    variables = f"PYTHONPATH={REPOSITORY} WANDB_MODE=disabled OMP_NUM_THREADS=1"
    where = (f"--nodes={nodes}", "--cpus-per-task=4", "--no-requeue", "--output=slurm-%j.log")
    command = f"export {variables}; {starter} {REPOSITORY / 'train.py'} {shlex.join(words)}"
    return workplace.queue(*where, "--wrap", command)


def check_exact(workplace: Workplace, job: Job, ranks: int) -> None:
    assert f"{ranks} x cpu" in job.log.read_text()
    report = audit(workplace.folder / "audit")
    assert report.problems == []
    assert {epoch.verdict for epoch in report.epochs} == {"exact"}


@pytest.mark.parametrize(
    ("starter", "flags"),
    [
        (f"srun --ntasks=2 {PYTHON}", ()),
        (PYTHON, ("--trainer.devices", "2")),
        (f"srun --ntasks=1 {PYTHON}", ("--trainer.devices", "2")),
    ],
    ids=["srun", "python", "srun-of-one-task"],
)
def test_two_ranks_on_one_node_need_none_of_our_scripts(workplace, starter, flags):
    job = queue(workplace, 1, starter, *flags)
    job.until_state("COMPLETED")
    check_exact(workplace, job, ranks=2)


def test_the_readmes_command(workplace):
    (command,) = (line for line in commands_of("README.md") if line.startswith("sbatch"))
    _, *words = command.replace("--nodes=4", "--nodes=2").split()
    script = words.index("slurm/train.sbatch") + 1
    words[words.index("/data/shards")] = str(workplace.shards)
    options = ["--ntasks-per-node=1", *CPU, *words[:script]]
    job = workplace.queue(*options, *words[script:], *TINY, "--data.audit_dir", "audit")
    job.until_state("COMPLETED")
    check_exact(workplace, job, ranks=2)


def test_torchrun_on_two_nodes_with_two_ranks_each_saves_before_the_time_limit(workplace):
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    starter = f"srun --ntasks-per-node=1 {PYTHON} -m torch.distributed.run --nnodes 2"
    starter += " --nproc_per_node 2 --rdzv_id $SLURM_JOB_ID --rdzv_backend c10d"
    starter += f" --rdzv_endpoint $(scontrol show hostnames | head -n 1):{port}"
    starter += " --signals-to-handle SIGTERM,SIGINT,SIGUSR1"
    job = queue(workplace, 2, starter)
    workplace.wait_for_step(job, ranks=4, step=3)
    job.cluster.run("scancel", "--signal=USR1", job.number)
    until(lambda: job.state == "FAILED", "the end", job.told)
    assert "stopped by SIGUSR1, saved" in job.log.read_text()
    job = queue(workplace, 2, starter)
    job.until_state("COMPLETED")
    check_exact(workplace, job, ranks=4)
