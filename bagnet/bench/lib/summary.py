"""Writes what the pieces of `bench gpu` found: `pieces.json`, and `summary.md` for people."""

from __future__ import annotations

import json
import platform
import shutil
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import torch

from bagnet.bench.lib import report
from bagnet.run.provenance import git_commit
from datamodules.common.files import write_text

RECORD = "pieces.json"
PACKAGES = ("torch", "triton", "torchvision", "pytorch-lightning")
TAIL = 20  # lines of a failed piece's log


@dataclass(frozen=True)
class Outcome:
    """What became of a piece.

    Attributes:
        ok: Whether all in it was as it should be.
        seconds: How long it took.
        found: In one line, what it found, or what went wrong.
        machine: Where it ran: card, driver, processor, versions and commit.
    """

    ok: bool
    seconds: float
    found: str
    machine: str

    @property
    def result(self) -> str:
        return "ok" if self.ok else "FAILED"


def machine(on_gpu: bool) -> str:
    """Describe this machine and what runs on it; only nvidia-smi touches the GPU."""
    parts = [report.machine(), f"Python {platform.python_version()}"]
    if on_gpu and shutil.which("nvidia-smi"):
        query = ["nvidia-smi", "--query-gpu=name,driver_version", "--format=csv,noheader"]
        cards = subprocess.run(query, capture_output=True, text=True, check=True).stdout
        parts.insert(0, "; ".join(cards.splitlines()).replace(", ", ", driver "))
    for package in PACKAGES:
        try:
            parts.append(f"{package} {version(package)}")
        except PackageNotFoundError:  # triton, where torch is built for CPUs
            continue
    parts.append(f"cuDNN {torch.backends.cudnn.version()}")
    return ", ".join([*parts, f"commit {git_commit()}"])


def load(out: Path) -> dict[str, Outcome]:
    """The outcomes of the pieces that have run, in this call or in an earlier one."""
    record = out / RECORD
    found = json.loads(record.read_text()) if record.exists() else {}
    return {name: Outcome(**outcome) for name, outcome in found.items()}


def save(out: Path, name: str, outcome: Outcome, order: Sequence[str]) -> None:
    """Add the outcome of a piece, and write the summary anew.

    Args:
        out: Folder of figures and logs.
        name: The piece.
        outcome: What became of it.
        order: All pieces, in the order of the summary.
    """
    outcomes = {**load(out), name: outcome}
    known = {each: outcomes[each] for each in order if each in outcomes}
    record = {each: asdict(outcome) for each, outcome in known.items()}
    write_text(json.dumps(record, indent=1) + "\n", out / RECORD)
    write_text(_markdown(out, known), out / "summary.md")


def _markdown(out: Path, outcomes: Mapping[str, Outcome]) -> str:
    failed = [name for name, outcome in outcomes.items() if not outcome.ok]
    passed = len(outcomes) - len(failed)
    lines = [f"# {passed} piece{'s' * (passed != 1)} ok, {len(failed)} failed", ""]
    for here in dict.fromkeys(outcome.machine for outcome in outcomes.values()):
        lines += [here, ""]
    lines += ["| piece | result | s | found |", "| --- | --- | --- | --- |"]
    for name, outcome in outcomes.items():
        found = outcome.found.replace("|", "\\|").replace("\n", " ")
        lines.append(f"| {name} | {outcome.result} | {outcome.seconds:.0f} | {found} |")
    for name in outcomes:
        table = out / f"{name}.txt"
        if table.exists() and table.read_text().strip():
            lines += ["", f"## {name}", "", *_fenced(table.read_text().splitlines())]
    for name in failed:
        tail = (out / f"{name}.log").read_text().splitlines()[-TAIL:]
        lines += ["", f"## End of {name}.log", "", *_fenced(tail)]
    return "\n".join(lines) + "\n"


def _fenced(lines: Sequence[str]) -> list[str]:
    return ["```", *(line.rstrip() for line in lines if line.strip()), "```"]
