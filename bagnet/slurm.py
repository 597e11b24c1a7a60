"""What a job of SLURM needs from the training. Imports nothing heavy."""

from __future__ import annotations

import os
import subprocess
import sys


def job_id() -> str | None:
    """The job that this process is a task of (of an array: ``ARRAYJOB_TASK``), as scontrol takes it; None elsewhere."""
    if "SLURM_PROCID" not in os.environ:
        return None
    array = os.environ.get("SLURM_ARRAY_JOB_ID")
    task = os.environ.get("SLURM_ARRAY_TASK_ID")
    return f"{array}_{task}" if array else os.environ.get("SLURM_JOB_ID")


def is_first_task() -> bool:
    return os.environ.get("SLURM_PROCID") == "0"


def requeue() -> None:
    """Put this job back into the queue; SLURM ends all its tasks then."""
    job = job_id()
    assert job is not None
    done = subprocess.run(["scontrol", "requeue", job], capture_output=True, text=True)
    if done.returncode:
        print(f"job {job} could not be requeued: {done.stderr.strip()}", file=sys.stderr)
    else:
        print(f"job {job} is requeued, and goes on from the checkpoint")


def check_setup(devices: int, nodes: int) -> None:
    """Find a job that would train alone in every task, or wait for ranks that nobody starts.

    Args:
        devices: Of each node.
        nodes: Number of nodes.

    Raises:
        ValueError: The tasks do not match, or nobody started them.
    """
    environment = os.environ
    if "SLURM_JOB_ID" not in environment:
        return
    if environment.get("SLURM_JOB_NAME") in ("bash", "interactive"):
        if int(environment.get("SLURM_NTASKS", "1")) > 1:
            raise ValueError(
                f"the job is called {environment['SLURM_JOB_NAME']!r}, and in such a job each task would train "
                "alone; start it with another name (salloc -J dev ...)"
            )
        return
    tasks = environment.get("SLURM_STEP_NUM_TASKS")
    if "SLURM_PROCID" not in environment or tasks is None:
        if nodes > 1:
            raise ValueError(
                f"{nodes} nodes, but srun did not start this process, so nobody starts the others; "
                "run `srun python train.py ...`"
            )
        return
    if int(tasks) != devices * nodes:
        raise ValueError(
            f"srun started {tasks} tasks for {nodes} nodes with {devices} devices each; it must be one a device: "
            f"srun --nodes={nodes} --ntasks-per-node={devices}"
        )
