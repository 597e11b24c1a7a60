"""Processes leave their parent's signals to it, and end with it without a word."""

from __future__ import annotations

import subprocess
import sys

import pytest

SCRIPT = """
import signal
from multiprocessing import resource_tracker
from datamodules.processes.children import blocking

with blocking({signal.SIGINT}):
    resource_tracker.ensure_running()  # as the first process or semaphore does
    print(signal.SIGINT in signal.pthread_sigmask(signal.SIG_BLOCK, []))
"""


def test_signals_stay_blocked_when_multiprocessing_starts_its_own_process():
    done = subprocess.run([sys.executable, "-c", SCRIPT], capture_output=True, text=True)
    assert (done.stdout, done.stderr) == ("True\n", "")


LINKED = """
import multiprocessing, os, signal, sys, threading
from unittest.mock import patch
from datamodules.processes.children import end_with_parent

def child(parents_end, pipe):
    parents_end.close()
    with patch("threading.Thread.start"):  # the thread that follows the parent is late
        end_with_parent()
    pipe.send("ready")
    try:
        raise EOFError(pipe.recv())
    except EOFError:
        sys.excepthook(*sys.exc_info())

if __name__ == "__main__":
    ours, theirs = multiprocessing.Pipe()
    multiprocessing.get_context("fork").Process(target=child, args=(ours, theirs)).start()
    theirs.close()
    ours.recv()
    if sys.argv[1] == "is killed":
        os.kill(os.getpid(), signal.SIGKILL)
    ours.send("said by a parent that lives")
"""


@pytest.mark.parametrize(
    ("parent", "reported"), [("is killed", ""), ("lives", "said by a parent that lives")]
)
def test_a_broken_connection_is_reported_unless_the_parent_has_ended(parent, reported):
    command = [sys.executable, "-c", LINKED, parent]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.stderr.strip().rpartition("EOFError: ")[2] == reported
