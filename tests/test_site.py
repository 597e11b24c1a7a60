"""`make docs`: the site is built without warnings, has everything, and fetches nothing."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import bagnet
import datamodules
from bagnet.experiments.commands import EXPERIMENTS

REPOSITORY = Path(__file__).parent.parent
FETCHED = re.compile(r"<(?:script|img|link|iframe)\b[^>]*(?:src|href)=[\"']?(?:http|//)[^>]*")


def build(project: Path, site: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", site]
    environment = {**os.environ, "NO_MKDOCS_2_WARNING": "1"}
    return subprocess.run(command, cwd=project, capture_output=True, text=True, env=environment)


@pytest.mark.slow
def test_each_page_is_in_the_site_and_fetches_nothing(tmp_path):
    done = build(REPOSITORY, tmp_path)
    assert done.returncode == 0, done.stderr
    assert "WARNING" not in done.stderr
    for pattern in ("*.md", "docs/*.md", "slurm/*.md", "benchmarks/*.md", "docs/*/*.ipynb"):
        for page in REPOSITORY.glob(pattern):
            file = tmp_path / page.relative_to(REPOSITORY).with_suffix(".html")
            html = (file.with_name("index.html") if page.stem == "README" else file).read_text()
            assert not FETCHED.search(html), page


@pytest.mark.slow
def test_links_that_lead_nowhere_fail_the_build(tmp_path):
    settings = (REPOSITORY / "mkdocs.yml").read_text().partition("\nnav:")[0]
    (tmp_path / "mkdocs.yml").write_text(f"{settings}\nnav: [README.md]\n")
    (tmp_path / "docs").mkdir()
    shutil.copytree(REPOSITORY / ".ci", tmp_path / ".ci")
    links = ("nothing.md", "README.md#nothing", "configs/nothing.yaml", "nothing.png")
    page = tmp_path / "README.md"
    page.write_text("# A page\n\n[itself](README.md#a-page)\n")
    assert build(tmp_path, tmp_path / "site").returncode == 0
    page.write_text("# A page\n\n" + "\n".join(f"[a]({link})" for link in links))
    failed = build(tmp_path, tmp_path / "site")
    assert failed.returncode != 0
    assert [link for link in links if f"'{link}'" in failed.stderr] == list(links)


def test_the_page_of_the_api_has_every_public_name():
    page = (REPOSITORY / "docs" / "api.md").read_text()
    names = [
        f"{package.__name__}.{n}" for package in (bagnet, datamodules) for n in package.__all__
    ]
    assert sorted(re.findall(r"^\| `([\w.]+)` \|", page, re.MULTILINE)) == sorted(names)
    assert sorted(re.findall(r"<!-- ::: ([\w.]+)", page)) == sorted(names)


def test_the_page_of_protocols_has_every_experiment():
    page = (REPOSITORY / "docs" / "protocols.md").read_text()
    modules = sorted(command.module for command in EXPERIMENTS.values())
    assert sorted(re.findall(r"<!-- ::: ([\w.]+)", page)) == modules
    files = re.findall(r"^\[\w+\.py\]\(\.\./(bagnet/.*)\.py\)", page, re.MULTILINE)
    assert sorted(file.replace("/", ".") for file in files) == modules
