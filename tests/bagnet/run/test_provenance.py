"""What a run records about its code: the git commit and a digest of the source."""

from __future__ import annotations

import subprocess

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
