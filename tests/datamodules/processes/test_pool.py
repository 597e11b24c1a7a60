"""A pool of processes: results in order, errors at once, nothing left behind."""

from __future__ import annotations

import multiprocessing
import os
import signal

import pytest

from datamodules.processes.pool import Pool, advance


def square(number):
    advance(number)
    return number**2


def die(number):
    os.kill(os.getpid(), signal.SIGKILL)


def refuse(number):
    raise ValueError(f"no {number}")


def test_results_come_in_the_order_of_the_tasks_and_progress_is_counted():
    done = []
    with Pool(2) as pool:
        assert pool.run(square, [3, 1, 2], done.append) == [9, 1, 4]
        assert done[-1] <= 6
        assert pool.run(square, [], done.append) == []
        with pytest.raises(ValueError, match="no [56]"):
            pool.run(refuse, [5, 6], done.append)
    assert not multiprocessing.active_children()


def test_a_killed_worker_is_one_clear_error():
    with Pool(1) as pool, pytest.raises(ValueError, match="was killed, .* fewer --workers"):
        pool.run(die, [1], lambda done: None)
