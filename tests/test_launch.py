"""Each way to start several ranks trains the same, and when one rank dies, all of them end."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from datamodules.audit.verdict import audit
from tests.slurm.cluster import until
from tests.slurm.runs import curve
from tests.starts import ENDLESS, RESUME, end, group, run_until, start, wait

pytestmark = pytest.mark.slow
STUCK = ("--trainer.callbacks+=tests.slurm.moments.Stuck",)
LOG = ("--trainer.log_every_n_steps", "5")
TORCHRUN = ("--signals-to-handle", "SIGTERM,SIGINT,SIGUSR1")


def ranks(folder: Path) -> dict[int, int]:
    """The process of each rank of the run in a folder that Lightning or torchrun has started."""
    found = {}
    for process in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):  # it has just ended
            words = (process / "cmdline").read_bytes().split(b"\0")[1:3]  # torchrun adds -u
            if not any(word.endswith(b"/train.py") for word in words):
                continue
            if (process / "cwd").readlink() != folder:
                continue
            environment = (process / "environ").read_bytes().split(b"\0")
            variables = dict(word.split(b"=", 1) for word in environment if b"=" in word)
            found[int(variables.get(b"LOCAL_RANK", 0))] = int(process.name)
    return found


def stuck(folder: Path, shards: Path, *flags: str) -> subprocess.Popen[str]:
    """Start two ranks, and return when both wait forever."""
    run = start(folder, shards, 2, *STUCK, "--trainer.callbacks.ranks=[0,1]", *flags)
    wait(run, lambda: len([*folder.glob("stuck-*")]) == 2, "both ranks")
    return run


def check_all_end(run: subprocess.Popen[str]) -> str:
    """Wait until no process of a run is left, its workers included; return what it said."""
    until(lambda: not group(run.pid), "the end", lambda: str(group(run.pid)))
    return run.communicate()[0]


def check_all_end_soon(run: subprocess.Popen[str]) -> str:
    """Within a tenth of the time that a rank waits for another one; it takes about 10 seconds."""
    begin = time.monotonic()
    out = check_all_end(run)
    assert time.monotonic() - begin < 60
    return out


def errors(out: str) -> list[str]:
    """What a user is told, if that is all: no traceback, and nothing of the libraries."""
    assert "Traceback" not in out
    assert "gloo" not in out.partition("-" * 100)[2].partition("-" * 100)[2]  # after its greeting
    assert "leaked" not in out
    return [line for line in out.splitlines() if line.startswith("error: ")]


def test_when_another_rank_is_killed_rank_0_names_it_and_ends(shards, tmp_path):
    run = stuck(tmp_path, shards)
    os.kill(ranks(tmp_path)[1], signal.SIGKILL)
    (line,) = errors(check_all_end_soon(run))
    assert line.startswith("error: rank 1 was killed by SIGKILL, so all ranks end; resume with: ")
    assert run.returncode == 1


def test_when_rank_0_is_killed_the_others_say_so_and_end(shards, tmp_path):
    run = stuck(tmp_path, shards)
    os.kill(run.pid, signal.SIGKILL)
    (line,) = errors(check_all_end_soon(run))
    assert line.startswith("error: rank 0 has ended, so all ranks end; resume with: ")
    assert run.returncode == -signal.SIGKILL


def test_when_all_ranks_are_stopped_for_a_while_nothing_is_wrong(shards, tmp_path):
    """As by Ctrl-Z, or by SLURM when another job goes first."""
    run = run_until(tmp_path, shards, 2, 3, *ENDLESS, "--timeout_minutes", "0.1")
    os.killpg(run.pid, signal.SIGSTOP)
    threading.Event().wait(10)  # longer than the limit; there is no event to wait for
    before = {file: file.stat().st_size for file in tmp_path.glob("audit/*")}
    os.killpg(run.pid, signal.SIGCONT)
    wait(run, lambda: all(file.stat().st_size > before[file] for file in before), "more batches")
    os.killpg(run.pid, signal.SIGKILL)
    assert "error" not in run.communicate()[0]


def test_ranks_of_one_node_listen_to_that_node_only(shards, tmp_path):
    run = run_until(tmp_path, shards, 2, 1, *ENDLESS)
    inodes = set()
    for process in group(run.pid):
        for file in Path(f"/proc/{process}/fd").iterdir():
            with contextlib.suppress(OSError):  # closed since
                inodes.add(os.readlink(file).removeprefix("socket:[").removesuffix("]"))
    addresses = set()
    for table in ("tcp", "tcp6"):
        for line in Path("/proc/net", table).read_text().splitlines()[1:]:
            _, local, _, state, *_, inode = line.split()[:10]
            if state == "0A" and inode in inodes:  # it listens
                addresses.add(local.partition(":")[0])
    os.killpg(run.pid, signal.SIGKILL)
    run.communicate()
    assert addresses == {"0100007F"}  # 127.0.0.1, and there is something


@pytest.mark.parametrize("failing", [0, 1])
def test_when_a_rank_fails_the_one_that_waits_for_it_ends(shards, tmp_path, failing):
    flags = (f"--trainer.callbacks.ranks=[{1 - failing}]", f"--trainer.callbacks.failing={failing}")
    run = start(tmp_path, shards, 2, *STUCK, *flags)
    wait(run, lambda: len([*tmp_path.glob("stuck-*")]) == 1, "the other rank")
    out = check_all_end_soon(run)
    assert "RuntimeError: this rank has failed" in out
    # Rank 0's own error is all that needs to be said.
    named = ["error: rank 1 ended with code 1, so all ranks end"] if failing == 1 else []
    told = [line.partition(";")[0] for line in out.splitlines() if line.startswith("error: rank")]
    assert told == named
    assert run.returncode == 1


@pytest.mark.parametrize("rank", [0, 1])
def test_torchrun_need_not_wait_for_a_stopped_rank(shards, tmp_path, rank):
    """It would for 30 seconds, whatever its options say."""
    limit = ("--timeout_minutes", "0.1")
    run = run_until(tmp_path, shards, 2, 3, *ENDLESS, *limit, torchrun=TORCHRUN)
    os.kill(ranks(tmp_path)[rank], signal.SIGSTOP)
    out = check_all_end(run)
    (line,) = [line for line in out.splitlines() if line.startswith("error: ")]
    assert line.startswith(f"error: rank {rank} ")
    assert "has not answered for 0.1 minutes" in line
    assert "Unable to shutdown process" not in out


def test_rank_0_that_hangs_under_torchrun_says_so_itself_and_no_other_does(shards, tmp_path):
    limit = ("--timeout_minutes", "0.1", "--trainer.callbacks.ranks=[0]")
    run = start(tmp_path, shards, 2, *STUCK, *limit, torchrun=TORCHRUN)
    out = check_all_end(run)
    (line,) = [line for line in out.splitlines() if line.startswith("error: ")]
    assert "rank 0 " in line
    assert "has made others wait, without any progress, for 0.1 minutes" in line


@pytest.fixture(scope="module")
def undisturbed(shards: Path, tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, str]]:
    """The curve of two ranks that Lightning has started, and that nothing disturbed."""
    folder = tmp_path_factory.mktemp("undisturbed")
    end(start(folder, shards, 2, *LOG))
    return curve(folder, "x")


def to_torchrun(run: subprocess.Popen[str], folder: Path, number: signal.Signals) -> None:
    """As a job does whose script starts torchrun: it passes the signal on."""
    run.send_signal(number)


def to_all(run: subprocess.Popen[str], folder: Path, number: signal.Signals) -> None:
    """As SLURM does if srun started torchrun: all processes get it, and torchrun passes it on."""
    os.killpg(run.pid, number)


def to_rank_0(run: subprocess.Popen[str], folder: Path, number: signal.Signals) -> None:
    os.kill(ranks(folder)[0], number)


@pytest.mark.parametrize(
    ("send", "number"),
    [
        (to_torchrun, signal.SIGTERM),
        (to_torchrun, signal.SIGUSR1),
        (to_all, signal.SIGUSR1),
        (to_rank_0, signal.SIGUSR1),
    ],
)
def test_stopped_under_torchrun_the_curve_is_that_of_an_undisturbed_run(
    shards, tmp_path, undisturbed, send: Callable[..., None], number
):
    run = run_until(tmp_path, shards, 2, 5, *LOG, torchrun=TORCHRUN)
    send(run, tmp_path, number)
    out = check_all_end_soon(run)
    assert f"stopped by {number.name}, saved; resume with: " in out
    assert run.returncode == 1  # torchrun's own
    end(start(tmp_path, shards, 2, *LOG, *RESUME, torchrun=TORCHRUN))
    report = audit(tmp_path / "audit")
    assert report.problems == []
    assert {epoch.verdict for epoch in report.epochs} == {"exact"}
    assert sum(epoch.redone for epoch in report.epochs) <= 1
    assert curve(tmp_path, "x") == undisturbed
