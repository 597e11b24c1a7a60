"""What a run records: the git commit, a digest of the source, and its SLURM job."""

from __future__ import annotations

import os
import subprocess

import pytest

from bagnet.run import provenance


def git(folder, *words):
    who = ["-c", "user.name=n", "-c", "user.email=e@f"]
    subprocess.run(["git", "-C", str(folder), *who, *words], check=True, capture_output=True)


def test_the_commit_says_whether_tracked_files_differ(tmp_path, monkeypatch):
    monkeypatch.setattr(provenance, "_ROOT", tmp_path)
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path.parent))
    assert provenance.git_commit() is None
    git(tmp_path, "init")
    (tmp_path / "a.py").write_text("a")
    git(tmp_path, "add", ".")
    git(tmp_path, "commit", "-m", "first")
    commit = provenance.git_commit()
    assert commit is not None
    assert len(commit) == 40
    (tmp_path / "data.txt").write_text("not tracked")
    assert provenance.git_commit() == commit
    (tmp_path / "a.py").write_text("b")
    assert provenance.git_commit() == f"{commit}-dirty"


def test_the_digest_sees_every_source_file(tmp_path, monkeypatch):
    for name in ("bagnet/run/provenance.py", "bagnet/model/one.py", "datamodules/two.py"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("x = 1\n")
    monkeypatch.setattr(provenance, "_ROOT", tmp_path)
    digests = {provenance.code_digest()}
    for name in ("bagnet/model/one.py", "datamodules/two.py"):
        (tmp_path / name).write_text("x = 2\n")
        digests.add(provenance.code_digest())
    (tmp_path / "bagnet/model/one.py").rename(tmp_path / "bagnet/model/three.py")
    digests.add(provenance.code_digest())
    assert len(digests) == 4


@pytest.fixture
def task(monkeypatch):
    """Makes this process a task of a job."""
    for name in [name for name in os.environ if name.startswith("SLURM")]:
        monkeypatch.delenv(name)

    def become(**variables):
        for name, value in {"JOB_ID": "7", **variables}.items():
            monkeypatch.setenv(f"SLURM_{name}", value)

    return become


def test_the_record_of_a_start_names_its_job(task):
    assert provenance.slurm_job() == {}
    task(JOB_NODELIST="node[1-2]")
    assert provenance.slurm_job() == {
        "slurm_job_id": "7",
        "slurm_restart_count": 0,
        "slurm_nodes": "node[1-2]",
    }
    task(ARRAY_JOB_ID="5", ARRAY_TASK_ID="2", RESTART_COUNT="3")
    assert provenance.slurm_job()["slurm_job_id"] == "5_2"
    assert provenance.slurm_job()["slurm_restart_count"] == 3
