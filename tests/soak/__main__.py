"""`make soak`: tries to break everything, and prints what came of it as a table.

Each part is a module of this folder with a function `run(folder, share, seed)`: it works in an
empty folder, tries `share` of what it tries in full, with random choices that the seed fixes, and
returns rows (outcomes.py). Two parts run at a time, each in a process of its own, for 40 minutes at
most. The exit status is 1 if anything happened that must not. docs/reliability.md quotes the table.

    python -m tests.soak                       all of it
    python -m tests.soak fuzz --share 0.1      a tenth of one part, with its output
"""

from __future__ import annotations

import argparse
import importlib
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import torch

from bagnet.run.provenance import git_commit
from tests.soak.outcomes import CRASH, LIMIT, Row, details, table

#: The longest first.
PARTS = ("fuzz", "kills", "endurance", "processes", "disks", "servers", "numerics")
MINUTES = 40
AT_ONCE = 2


def main() -> int:
    parser = argparse.ArgumentParser("python -m tests.soak", description=__doc__)
    parser.add_argument("part", nargs="?", choices=PARTS)
    parser.add_argument("--share", type=float, default=1.0, help="of what is tried in full")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=Path("soak"), help="for the logs and the table")
    arguments = parser.parse_args()
    if arguments.part:
        return run_part(arguments.part, arguments.share, arguments.seed, arguments.out)
    return run_all(arguments.share, arguments.seed, arguments.out)


def run_part(part: str, share: float, seed: int, out: Path) -> int:
    folder = out / part
    folder.mkdir(parents=True)
    rows = importlib.import_module(f"tests.soak.{part}").run(folder.absolute(), share, seed)
    (out / f"{part}.json").write_text(json.dumps([row.as_json() for row in rows], indent=1))
    print(table(rows), *details(rows), sep="\n")
    return int(any(row.unwanted for row in rows))


def run_all(share: float, seed: int, out: Path) -> int:
    out.mkdir(parents=True)
    started = time.monotonic()
    waiting, running = list(PARTS), dict[str, subprocess.Popen[bytes]]()
    while waiting or running:
        while waiting and len(running) < AT_ONCE:
            part = waiting.pop(0)
            running[part] = _start(part, share, seed, out)
        for part, process in list(running.items()):
            over = time.monotonic() - started > MINUTES * 60
            if over:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()
            if process.poll() is not None:
                del running[part]
                print(
                    f"{part} {time.monotonic() - started:.0f} s{' (out of time)' * over}",
                    flush=True,
                )
        time.sleep(0.2)
    rows = [row for part in PARTS for row in _rows(part, out)]
    seconds = time.monotonic() - started
    caption = (
        f"Commit {git_commit() or 'unknown'}, seed {seed}, torch {torch.__version__}, "
        f"{os.cpu_count()} cores, {seconds / 60:.0f} minutes."
    )
    text = "\n".join([table(rows), "", caption, *details(rows)]) + "\n"
    (out / "table.md").write_text(text)
    print(text)
    return int(any(row.unwanted for row in rows))


def _start(part: str, share: float, seed: int, out: Path) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-m", "tests.soak", part, "--share", str(share)]
    with (out / f"{part}.log").open("wb") as log:
        return subprocess.Popen(
            [*command, "--seed", str(seed), "--out", str(out)],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )


def _rows(part: str, out: Path) -> list[Row]:
    result = out / f"{part}.json"
    if not result.exists():
        log = (out / f"{part}.log").read_text(errors="replace").strip().splitlines() or [""]
        return [Row(part, 1, unwanted={CRASH if log[-1] else LIMIT: [f"no result: {log[-1]}"]})]
    return [Row(**row) for row in json.loads(result.read_text())]


if __name__ == "__main__":
    sys.exit(main())
