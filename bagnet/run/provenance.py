"""Records the git commit, a digest of the source, and the SLURM job. Imports nothing heavy."""

from __future__ import annotations

import hashlib
import os
import subprocess
from pathlib import Path

_ROOT = Path(__file__).parents[2]


def git_commit() -> str | None:
    """The checked-out commit, with `-dirty` appended if tracked files differ; None without git."""
    commit = _git("rev-parse", "HEAD")
    if commit is None:
        return None
    return f"{commit}-dirty" if _git("status", "--porcelain", "--untracked-files=no") else commit


def code_digest() -> str:
    """A hash of the project's source files, as this process would import them."""
    digest = hashlib.sha256()
    for package in (_ROOT / "bagnet", _ROOT / "datamodules"):
        for source in sorted(package.rglob("*.py")):
            digest.update(f"{source.relative_to(_ROOT)}\n".encode() + source.read_bytes())
    return digest.hexdigest()[:16]


def slurm_job() -> dict[str, str | int]:
    """The job, its nodes and its restarts; empty outside of a job."""
    environment = os.environ
    if "SLURM_JOB_ID" not in environment:
        return {}
    array, task = environment.get("SLURM_ARRAY_JOB_ID"), environment.get("SLURM_ARRAY_TASK_ID")
    return {
        "slurm_job_id": f"{array}_{task}" if array else environment["SLURM_JOB_ID"],
        "slurm_restart_count": int(environment.get("SLURM_RESTART_COUNT", 0)),
        "slurm_nodes": environment.get("SLURM_JOB_NODELIST", ""),
    }


def _git(*words: str) -> str | None:
    try:
        done = subprocess.run(
            ["git", "-C", str(_ROOT), *words], capture_output=True, text=True, timeout=10
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() if done.returncode == 0 else None
