"""Ranks end together: when one dies, the others do not wait for it. Imports nothing heavy.

This is for ranks that rank 0 starts itself, through Lightning. torchrun and srun
(`--kill-on-bad-exit=1`) do the same for the ranks that they start.
"""

from __future__ import annotations

import atexit
import ctypes
import os
import signal
import subprocess
import sys
import threading

_RANK_0 = "BAGNET_RANK_0"
"""Environment variable: the process that starts the others on this node."""

_NUMBERS = ("LOCAL_RANK", "SLURM_PROCID")
"""Environment variables: the number of a process under Lightning and srun."""

_PATIENCE = 10.0
"""Seconds in which a rank may end by itself, with a message of its own."""

_PR_SET_PDEATHSIG = 1  # from <linux/prctl.h>


def is_first() -> bool:
    """Whether this is rank 0, by what launchers tell each process; known before Lightning is."""
    rank = os.environ.get("RANK")  # torchrun's; under srun, its rank 0 can be on any node
    if rank is not None:
        return rank == "0"
    return all(os.environ.get(name, "0") == "0" for name in _NUMBERS)


def end_with_rank_0() -> None:
    """In a rank that rank 0 has started: let the kernel kill this process when rank 0 has ended.

    In all others, ignore numbers of ranks that are left over in the environment: Lightning would
    take this process for one of many, which prints and logs nothing.
    """
    if "TORCHELASTIC_RUN_ID" in os.environ:
        return
    rank_0 = int(os.environ.get(_RANK_0, os.getpid()))
    if rank_0 != os.getpid() and os.environ.get("LOCAL_RANK", "0") != "0":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() != rank_0:  # it ended before the kernel knew
            os._exit(1)
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
    first = threading.Lock()
    for number, process in enumerate(others, rank + 1):
        threading.Thread(target=_follow, args=(number, process, first), daemon=True).start()


def _follow(rank: int, process: subprocess.Popen[bytes], first: threading.Lock) -> None:
    code, rank_0 = process.wait(), threading.main_thread()
    if code == 0 or not rank_0.is_alive() or not first.acquire(blocking=False):
        return
    how = f"was killed by {signal.Signals(-code).name}" if code < 0 else f"ended with code {code}"
    print(f"error: rank {rank} {how}, so all ranks end", file=sys.stderr, flush=True)
    rank_0.join(_PATIENCE)
    if rank_0.is_alive():
        os._exit(1)  # in the middle of a collective it could not end otherwise


def _end(processes: list[subprocess.Popen[bytes]]) -> None:
    for process in processes:
        try:
            process.wait(_PATIENCE)
        except subprocess.TimeoutExpired:
            process.kill()
