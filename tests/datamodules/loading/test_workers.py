"""Worker processes: they do not change the batches, and they end with the training process."""

import errno
import gc
import itertools
import os
import re
import signal
import subprocess
import threading
from multiprocessing.process import BaseProcess
from pathlib import Path

import pytest
import torch
from torch.utils.data.dataloader import _MultiProcessingDataLoaderIter

from datamodules.loading.batches import Batches
from datamodules.loading.loader import EvalLoader
from datamodules.shards.manifest import Manifest
from tests.datamodules.loaders import contents


@pytest.mark.parametrize("workers", [1, 2])
def test_workers_change_nothing(train, reference, workers):
    loader = train(workers=workers)
    for epoch in reference:
        found = contents(loader)
        assert [list(batch) for batch in found] == [list(batch) for batch in epoch]
        assert found == epoch


@pytest.mark.parametrize("workers", [0, 1])
def test_a_full_disk_is_an_error_in_the_training_process(folder, workers):
    batches = Batches(Manifest.load(folder), no_space)
    loader = EvalLoader(batches, 4, workers=workers)
    with pytest.raises(OSError, match="No space") as info:
        list(loader)
    assert info.value.errno == errno.ENOSPC
    loader.close()


def no_space(image):
    raise OSError(errno.ENOSPC, "No space left on device")


def test_workers_leave_interrupts_to_the_training_process(train, reference):
    loader = train(workers=1)
    batches = iter(loader)
    head = [next(batches)]
    (worker,) = torch.multiprocessing.active_children()
    for number in (signal.SIGINT, signal.SIGUSR1):
        os.kill(worker.pid, number)
    subprocess.run(["kill", "-TERM", str(worker.pid)], check=True)  # not from the parent
    assert contents(itertools.chain(head, batches)) == reference[0]
    assert contents(loader) == reference[1]
    assert worker.is_alive()
    worker.terminate()  # from the parent
    worker.join(30)
    assert not worker.is_alive()


def test_workers_are_not_forked_from_the_training_process(train):
    """Its threads may hold locks, for which such workers would wait forever."""
    loader = train(workers=1)
    next(iter(loader))
    (worker,) = torch.multiprocessing.active_children()
    status = Path(f"/proc/{worker.pid}/status").read_text()
    (parent,) = re.findall(r"^PPid:\s*(\d+)", status, re.MULTILINE)
    assert int(parent) != os.getpid()
    server = Path(f"/proc/{parent}/status").read_text()
    assert re.search(r"^Threads:\s*1$", server, re.MULTILINE)
    # SLURM's signals do not end it.
    for number in (signal.SIGUSR1, signal.SIGUSR2, signal.SIGTERM):
        os.kill(int(parent), number)
    loader.close()
    assert contents(train(workers=1))
    assert Path(f"/proc/{parent}").exists()


def test_workers_stay_between_epochs_and_stop_on_close(train):
    loader = train(workers=2)
    for _ in loader:
        pass
    first = {worker.pid for worker in torch.multiprocessing.active_children()}
    for _ in loader:
        pass
    assert {worker.pid for worker in torch.multiprocessing.active_children()} == first
    assert len(first) == 2
    loader.close()
    assert not torch.multiprocessing.active_children()


def test_closing_waits_for_the_threads_of_the_queues(train):
    """Python reports a leak if it ends while one of them deletes a semaphore."""
    before = set(threading.enumerate())
    loader = train(workers=2)
    next(iter(loader))
    started = set(threading.enumerate()) - before
    assert started
    loader.close()
    assert not any(thread.is_alive() for thread in started)


def test_a_negative_number_of_workers_is_an_error(train):
    with pytest.raises(ValueError, match="workers is -1"):
        train(workers=-1)


def worker_of(batches):
    """Read a batch, and return the worker that reads all of them."""
    next(batches)
    (worker,) = torch.multiprocessing.active_children()
    return worker


@pytest.mark.slow  # torch looks every five seconds
def test_a_worker_that_was_stopped_between_epochs_is_named(train):
    loader = train(workers=2, patience=1.0)
    list(loader)
    _, last = sorted(each.pid for each in torch.multiprocessing.active_children())
    os.kill(last, signal.SIGSTOP)
    with pytest.raises(ValueError, match=f"process {last}, which reads the data, gave no batch"):
        list(loader)
    loader.close()


def test_a_worker_that_is_killed_while_it_hands_over_a_batch_ends_in_the_same_line(
    train, monkeypatch
):
    """Its socket is closed a moment before its end can be seen, so PyTorch takes it for alive."""
    loader = train(workers=1)
    batches = iter(loader)
    worker = worker_of(batches)
    (handed_over,) = [
        part._data_queue._reader
        for part in gc.get_objects()
        if type(part) is _MultiProcessingDataLoaderIter and worker in part._workers
    ]
    assert handed_over.poll(300)  # without the next batch, its socket would not be missed
    worker.kill()
    monkeypatch.setattr(BaseProcess, "is_alive", lambda process: True)
    with pytest.raises(ValueError, match=rf"has ended \(process id {worker.pid}\).*workers$"):
        list(batches)
    monkeypatch.undo()
    loader.close()
