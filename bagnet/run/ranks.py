"""Ranks end together: when one dies, the others do not wait for it. Imports nothing heavy.

`watch` and `end_with_rank_0` are for ranks that rank 0 starts itself, through Lightning. torchrun
and srun (`--kill-on-bad-exit=1`) do the same for the ranks that they start. What only the ranks
themselves can notice, `bagnet/run/heartbeat.py` does.
"""

from __future__ import annotations

import atexit
import contextlib
import os
import signal
import subprocess
import sys
import threading
import time

_RANK_0 = "BAGNET_RANK_0"
"""Environment variable: the process that starts the others on this node."""

_NUMBERS = ("LOCAL_RANK", "SLURM_PROCID")
"""Environment variables: the number of a process under Lightning and srun."""

_PATIENCE = 10.0
"""Seconds in which a rank may end by itself, with a message of its own."""

_GONE = "has ended"

_started: dict[int | None, subprocess.Popen[bytes]] = {}
"""The ranks that this one has started."""

_hint = ""
_first = threading.Lock()
_giving_up = threading.Event()


def is_first() -> bool:
    """Whether this is rank 0, by what launchers tell each process; known before Lightning is."""
    return _number() == 0


def _number() -> int:
    rank = os.environ.get("RANK")  # torchrun's; under srun, its rank 0 can be on any node
    if rank is not None:
        return int(rank)
    return max(int(os.environ.get(name, "0")) for name in _NUMBERS)


def end_with_rank_0() -> None:
    """In a rank that rank 0 has started: end this process when rank 0 has ended.

    In all others, ignore numbers of ranks that are left over in the environment: Lightning would
    take this process for one of many, which prints and logs nothing.
    """
    if "TORCHELASTIC_RUN_ID" in os.environ:
        return
    rank_0 = int(os.environ.get(_RANK_0, os.getpid()))
    if rank_0 != os.getpid() and os.environ.get("LOCAL_RANK", "0") != "0":
        threading.Thread(target=_follow_rank_0, args=(rank_0,), daemon=True).start()
        return
    os.environ[_RANK_0] = str(os.getpid())
    for name in ("RANK", "LOCAL_RANK"):
        value = os.environ.pop(name, None)
        if value is not None:
            print(
                f"{name}={value} is ignored: neither torchrun nor srun has set it", file=sys.stderr
            )


def watch(processes: list[subprocess.Popen[bytes]], rank: int) -> None:
    """In the rank that has started `processes`: when one of them dies, say so, and end them all.

    When this process ends first, it waits for the others a little, then it kills them.

    Args:
        processes: Lightning's list, which is emptied: Lightning would kill all processes, this one
            included, without a word.
        rank: The rank of this process; the others have the next numbers.
    """
    others = processes.copy()
    processes.clear()
    atexit.register(_end, others)
    for number, process in enumerate(others, rank + 1):
        _started[number] = process
        threading.Thread(target=_follow, args=(number, process), daemon=True).start()


def hint(text: str) -> None:
    """Say what the user should be told when the ranks end because of one of them."""
    global _hint
    _hint = text


def how_to_resume() -> str:
    """What `hint` was given; nothing before."""
    return _hint


def give_up(rank: int | None, what: str = _GONE, process: int | None = None) -> None:
    """End this process, because one of the ranks is gone or stuck. Called by any thread.

    The main thread may end by itself, with its checkpoint written; in a collective operation it
    could wait forever. Rank 0 tells the user, or the next one if it is about rank 0.

    Args:
        rank: The rank that all others would wait for; None if rank 0 has told the user already.
        what: What is wrong with it.
        process: Its process if it is on this node, which is killed: nothing less would end one that
            is stopped or hangs, and torchrun would first wait for it for 30 seconds.
    """
    if not _first.acquire(blocking=False):
        return
    if is_first() or (rank == 0 and _number() == 1):
        how = _fate(rank) if what == _GONE else what
        print(f"error: rank {rank} {how}, so all ranks end{_hint}", file=sys.stderr, flush=True)
    _giving_up.set()
    if process is not None:
        with contextlib.suppress(ProcessLookupError):  # another rank was faster
            os.kill(process, signal.SIGKILL)
    threading.main_thread().join(_PATIENCE)
    if threading.main_thread().is_alive():
        os._exit(1)


def are_giving_up(wait: float = _PATIENCE) -> bool:
    """Whether the ranks end because of one of them.

    Args:
        wait: Seconds, at most, until that is known.
    """
    return _giving_up.wait(wait)


def is_connection_lost(error: Exception) -> bool:
    """Whether an error only says that another rank has ended; the user is then told which.

    Args:
        error: What torch raised in a collective operation, or any other error.
    """
    if not isinstance(error, RuntimeError) or "/gloo/" not in str(error):
        return False
    if "Timed out" in str(error):
        print(
            "error: the ranks have waited for each other longer than --timeout_minutes, and none "
            f"is known to be stuck{_hint}",
            file=sys.stderr,
        )
    elif not are_giving_up():
        print(f"error: another rank has ended, and its message says why{_hint}", file=sys.stderr)
    return True


def _fate(rank: int | None) -> str:
    """How a rank ended that has closed its connections, if this process has started it."""
    with contextlib.suppress(KeyError, subprocess.TimeoutExpired):
        code = _started[rank].wait(1.0)
        return (
            f"was killed by {signal.Signals(-code).name}" if code < 0 else f"ended with code {code}"
        )
    return _GONE


def _follow(rank: int, process: subprocess.Popen[bytes]) -> None:
    if process.wait() != 0 and threading.main_thread().is_alive():
        give_up(rank)


def _follow_rank_0(process: int) -> None:
    while os.getppid() == process:
        time.sleep(1.0)
    give_up(0)


def _end(processes: list[subprocess.Popen[bytes]]) -> None:
    for process in processes:
        try:
            process.wait(_PATIENCE)
        except subprocess.TimeoutExpired:
            process.kill()
