"""The lock, and the page of what it installs."""

from __future__ import annotations

import re
import runpy
import subprocess
from importlib import metadata
from pathlib import Path

import pytest
from packaging.utils import canonicalize_name
from packaging.version import Version

REPOSITORY = Path(__file__).parent.parent
LOCK = (REPOSITORY / "requirements.lock").read_text()
PAGE = (REPOSITORY / "docs" / "dependencies.md").read_text()
dependencies = runpy.run_path(str(REPOSITORY / ".ci" / "dependencies.py"))
locked = dependencies["locked"]


@pytest.mark.parametrize("python", ["3.10", "3.11", "3.12", "3.13"])
def test_the_lock_has_every_requirement_in_its_range(python):
    versions = locked(python)
    for requirement in dependencies["asked"]():
        version = versions[canonicalize_name(requirement.name)]
        assert requirement.specifier.contains(version), f"{requirement}: make lock"


def test_every_package_has_a_hash_and_comes_as_a_wheel():
    assert "--only-binary :all:\n" in LOCK
    packages = re.split(r"^(?=[\w.-]+==)", LOCK, flags=re.MULTILINE)[1:]
    assert len(packages) > 100
    for package in packages:
        assert re.match(r"\S+ .*\\\n    --hash=sha256:[0-9a-f]{64}\b", package), package


def test_make_installs_only_what_has_a_hash():
    plan = subprocess.run(
        ["make", "-n", "-B", "setup"], cwd=REPOSITORY, capture_output=True, text=True, check=True
    )
    (install,) = [line for line in plan.stdout.splitlines() if "pip install" in line]
    assert install.endswith(" --require-hashes -r requirements.lock")


def test_the_page_lists_the_lock_and_says_who_asks_for_versions_before_a_release():
    versions = locked()
    early, licences = PAGE.split("## Licences")
    row = r"^\| ([\w.-]+) \| (\d\S*) \| (?:training|tests) \| \S.* \|$"
    assert dict(re.findall(row, licences, re.MULTILINE)) == versions, "make licences"
    asked_for = re.findall(r"^\| ([\w.-]+ \d\S*) \| \S+ \d.* \|$", early, re.MULTILINE)
    assert asked_for == [f"{n} {v}" for n, v in versions.items() if Version(v).is_prerelease]


def test_the_page_is_what_make_licences_writes():
    installed = {canonicalize_name(d.name): d.version for d in metadata.distributions()}
    if other := {name for name, version in locked().items() if installed.get(name) != version}:
        pytest.skip(f"not installed in the versions of the lock: {', '.join(sorted(other))}")
    assert dependencies["page"]() == PAGE, "make licences"
