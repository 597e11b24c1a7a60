"""Worker processes that are forked from a clean server, not from the training process.

A fork copies the locks that other threads hold at that moment. The worker, and with it every rank,
then hangs forever (pytorch issue 130610; once in a few hundred starts in our own tests). The server
has no threads. It has imported everything slow, so its workers start as fast as plain forks.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import sys
import tempfile
import threading
from multiprocessing import forkserver, util
from multiprocessing.context import ForkServerContext

from datamodules.processes.children import blocking, end_with_parent

_PRELOADED = ["torch.utils.data", "torchvision.transforms.v2", "webdataset", "fsspec"]
_LONGEST_SOCKET = 107  # bytes of its path, by Linux
_NAME_OF_SOCKET = "/pymp-12345678/listener-12345678"
_PARENTS_SIGNALS = {signal.SIGINT, signal.SIGUSR1, signal.SIGUSR2}


def forkserver_context() -> ForkServerContext:
    """The context that starts workers. Starts the server itself, unless it is running already."""
    _choose_place_of_sockets()
    forkserver.set_forkserver_preload(_PRELOADED)
    # Ctrl-C and SLURM's signals reach every process of a job. The server inherits this mask and
    # keeps it; so do workers, until `become_worker` listens for the parent's SIGTERM.
    with blocking({*_PARENTS_SIGNALS, signal.SIGTERM}):
        try:
            forkserver.ensure_running()
        except RuntimeError:
            # This is a worker that imports its parent's script, whose code is not guarded. The
            # parent says so, once for all workers (`Workers`).
            sys.exit(1)
    return multiprocessing.get_context("forkserver")


def _choose_place_of_sockets() -> None:
    """Use /tmp if paths of sockets in $TMPDIR, which is long on some clusters, would be too long.

    multiprocessing remembers the folder, and its children inherit it.
    """
    if len(os.fsencode(tempfile.gettempdir())) > _LONGEST_SOCKET - len(_NAME_OF_SOCKET):
        given, tempfile.tempdir = tempfile.tempdir, "/tmp"
        try:
            util.get_temp_dir()
        finally:
            tempfile.tempdir = given


def become_worker(_worker: int = 0) -> None:
    """Leave the parent's signals to it, and end with it.

    Ctrl-C and SLURM's signals reach every process of a job. A worker that died of them would take
    the training down before it could save. SIGTERM ends a worker only if the parent sends it.
    `DataLoader` passes the number of the worker, which is not used.
    """
    for number in _PARENTS_SIGNALS:
        signal.signal(number, signal.SIG_IGN)
    parent = multiprocessing.parent_process()
    if parent is not None:
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
        threading.Thread(target=_end_at_sigterm_from, args=(parent.pid,), daemon=True).start()
        end_with_parent()


def _end_at_sigterm_from(parent: int) -> None:
    while signal.sigwaitinfo({signal.SIGTERM}).si_pid != parent:
        pass
    os._exit(1)
