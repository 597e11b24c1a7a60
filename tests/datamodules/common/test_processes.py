"""Processes that are started do not see the signals that are meant for their parent."""

from __future__ import annotations

import subprocess
import sys

SCRIPT = """
import signal
from multiprocessing import resource_tracker
from datamodules.common.processes import blocking

with blocking({signal.SIGINT}):
    resource_tracker.ensure_running()  # as the first process or semaphore does
    print(signal.SIGINT in signal.pthread_sigmask(signal.SIG_BLOCK, []))
"""


def test_signals_stay_blocked_when_multiprocessing_starts_its_own_process():
    done = subprocess.run([sys.executable, "-c", SCRIPT], capture_output=True, text=True)
    assert (done.stdout, done.stderr) == ("True\n", "")
