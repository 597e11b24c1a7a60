"""Prints docs/dependencies.md: what the lock installs on Linux, and under which licence.

`make licences` runs it in the environment that `make setup` has made.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterable
from importlib import metadata
from pathlib import Path

from packaging.markers import Marker
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

ROOT = Path(__file__).parent.parent
# The table is for this machine, so that it is the same wherever it is made.
LINUX = {
    "python_version": "3.11",
    "python_full_version": "3.11.9",
    "sys_platform": "linux",
    "platform_machine": "x86_64",
    "platform_python_implementation": "CPython",
}
HEAD = """\
# What an installation consists of

`requirements.txt` has the ranges that the project needs. `requirements.lock` has the exact version
and the hashes of every package for Python 3.10 to 3.13, and is what `make` and CI install: wheels
only, with `pip install --require-hashes`, so a file that was replaced on its way is refused, and no
package runs code of its own while it is installed. `make lock` brings the lock up to date with
`requirements.txt` and moves nothing else; `make upgrade` takes the newest versions. The hosted
workflow asks `pip-audit` for known holes in these versions.

`make licences` writes this page, from what the packages say of themselves.

## Versions before a release

Nothing here asks for one. Other packages ask for exactly these, which have no release on PyPI
(November 2026):

| package | asked for by |
| --- | --- |
"""
LICENCES = """
## Licences

On Linux (x86_64) with Python 3.11. "tests": only the tests and tools of this repository need it;
`pip install .` does not bring it.

| package | version | needed by | licence |
| --- | --- | --- | --- |
"""


def locked(python: str = "3.11") -> dict[str, str]:
    """The packages and versions of the lock on Linux."""
    versions = {}
    environment = {**LINUX, "python_version": python, "python_full_version": f"{python}.9"}
    for line in (ROOT / "requirements.lock").read_text().splitlines():
        if match := re.match(r"([\w.-]+)==(\S+)(?: ; (.*?))? \\$", line):
            name, version, marker = match.groups()
            if marker is None or Marker(marker).evaluate(environment):
                versions[name] = version
    return versions


def needs(name: str, extras: Iterable[str] = ()) -> list[Requirement]:
    """What an installed package asks for."""
    found = []
    for text in metadata.requires(name) or []:
        requirement = Requirement(text)
        marker = requirement.marker
        if marker is None or any(marker.evaluate({**LINUX, "extra": e}) for e in ("", *extras)):
            found.append(requirement)
    return found


def reached(requirements: list[Requirement]) -> set[str]:
    """The packages that these requirements bring."""
    seen: set[tuple[str, frozenset[str]]] = set()
    while requirements:
        requirement = requirements.pop()
        key = (canonicalize_name(requirement.name), frozenset(requirement.extras))
        if key not in seen:
            seen.add(key)
            requirements += needs(*key)
    return {name for name, _ in seen}


def licence(name: str) -> str:
    """What a package says of its licence: as an SPDX expression, a short text, or a classifier."""
    about = metadata.metadata(name)
    expressions = about.get_all("License-Expression") or []
    texts = about.get_all("License") or []
    classifiers = [
        line.rsplit(" :: ", 1)[1]
        for line in about.get_all("Classifier") or []
        if line.startswith("License :: ")
    ]
    short = [text for text in texts if len(text) < 60 and "\n" not in text and text != "UNKNOWN"]
    return ", ".join(expressions or short or classifiers) or "not stated"


def asked(before: str = "# the end") -> list[Requirement]:
    """What requirements.txt asks for, up to a comment."""
    text = (ROOT / "requirements.txt").read_text().split(before)[0]
    lines = (line.split("#")[0].strip() for line in text.splitlines())
    return [Requirement(line) for line in lines if line]


def page() -> str:
    """The text of docs/dependencies.md."""
    versions = locked()
    training = reached(asked(before="# for the tests"))
    early = [name for name, version in versions.items() if Version(version).is_prerelease]
    askers = {
        name: sorted(
            f"{asker} {versions[asker]}"
            for asker in versions
            if any(canonicalize_name(need.name) == name for need in needs(asker))
        )
        for name in early
    }
    return "".join(
        [
            HEAD,
            *(f"| {name} {versions[name]} | {', '.join(askers[name])} |\n" for name in early),
            LICENCES,
            *(
                f"| {name} | {version} | {'training' if name in training else 'tests'} "
                f"| {licence(name)} |\n"
                for name, version in versions.items()
            ),
        ]
    )


if __name__ == "__main__":
    sys.stdout.write(page())
