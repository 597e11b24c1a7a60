"""When a worker counts as stuck."""

from __future__ import annotations

import threading
import time

from datamodules.loading.watchdog import Watchdog


class Worker:
    pid = None

    def __init__(self) -> None:
        self.killed = threading.Event()

    def kill(self) -> None:
        self.killed.set()


def test_only_a_single_wait_counts_and_the_worker_whose_turn_it_is_ends():
    workers, watchdog = [Worker(), Worker()], Watchdog(0.4)
    for number in range(4):
        with watchdog.waiting(workers, number):
            time.sleep(0.15)
    time.sleep(0.6)  # the training computes
    assert not any(worker.killed.is_set() for worker in workers)
    with watchdog.waiting(workers, 7):
        assert workers[1].killed.wait(30)
    assert not workers[0].killed.is_set()
    watchdog.close()


def test_without_workers_nobody_watches():
    threads = threading.active_count()
    with Watchdog(0.0).waiting([], 0):
        assert threading.active_count() == threads
