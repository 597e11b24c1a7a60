"""What a training needs to know about its SLURM job. Imports nothing heavy."""

from __future__ import annotations

import os


def facts() -> dict[str, str | int]:
    """Job, nodes and restarts, for the list of starts; empty outside of a job."""
    environment = os.environ
    if "SLURM_JOB_ID" not in environment:
        return {}
    array, task = environment.get("SLURM_ARRAY_JOB_ID"), environment.get("SLURM_ARRAY_TASK_ID")
    return {
        "slurm_job_id": f"{array}_{task}" if array else environment["SLURM_JOB_ID"],
        "slurm_restart_count": int(environment.get("SLURM_RESTART_COUNT", 0)),
        "slurm_nodes": environment.get("SLURM_JOB_NODELIST", ""),
    }


def check_setup(devices: int, nodes: int) -> None:
    """Refuse a job whose tasks would all train alone, or wait for ranks that nobody starts.

    Args:
        devices: Number of devices of each node.
        nodes: Number of nodes.

    Raises:
        ValueError: The tasks do not match the devices, or srun did not start them.
    """
    environment = os.environ
    if "SLURM_JOB_ID" not in environment:
        return
    # Lightning ignores SLURM in jobs with these names.
    if environment.get("SLURM_JOB_NAME") in ("bash", "interactive"):
        if int(environment.get("SLURM_NTASKS", "1")) > 1:
            raise ValueError(
                f"the job is called {environment['SLURM_JOB_NAME']!r}, and in such a job each task "
                "would train alone; start it under another name (salloc -J dev ...)"
            )
        return
    tasks = environment.get("SLURM_STEP_NUM_TASKS")
    if "SLURM_PROCID" not in environment or tasks is None:
        if nodes > 1:
            raise ValueError(
                f"the job has {nodes} nodes, but srun did not start this process, so nothing "
                "starts the others; run `srun python train.py ...`"
            )
        return
    if devices > 1 and "SLURM_GPUS_PER_TASK" in environment:
        raise ValueError(
            "with --gpus-per-task each task sees only one GPU, but numbers it as one of several; "
            f"use --gpus-per-node={devices} instead"
        )
    if int(tasks) != devices * nodes:
        raise ValueError(
            f"srun started {tasks} tasks for {nodes} nodes with {devices} devices each, but each "
            f"device needs one task: srun --nodes={nodes} --ntasks-per-node={devices}"
        )
