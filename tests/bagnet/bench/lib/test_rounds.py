"""Turns, and clocks that know their device."""

from __future__ import annotations

import time

import pytest
import torch

from bagnet.bench.lib.rounds import step_seconds, take_turns


def test_all_are_measured_in_each_round_before_any_is_measured_again():
    turns: list[str] = []

    def measure(name: str) -> int:
        turns.append(name)
        return len(turns)

    assert take_turns(["a", "b"], 3, measure) == {"a": [1, 3, 5], "b": [2, 4, 6]}
    assert turns == ["a", "b"] * 3


def test_each_step_has_its_own_time(monkeypatch):
    clock = [0.0]
    monkeypatch.setattr(time, "perf_counter", lambda: clock[0])
    durations = iter((1.0, 5.0, 2.0))

    def step() -> None:
        clock[0] += next(durations)

    assert step_seconds(step, 3, torch.device("cpu")) == [1.0, 5.0, 2.0]


def test_the_time_of_a_gpu_is_measured_on_that_gpu(monkeypatch):
    current = [0]

    class Device:
        def __init__(self, device: torch.device) -> None:
            self.index = device.index

        def __enter__(self) -> None:
            current.append(self.index)

        def __exit__(self, *_: object) -> None:
            current.pop()

    class Event:
        def __init__(self, enable_timing: bool) -> None:
            assert enable_timing

        def record(self) -> None:
            assert current[-1] == 1

        def elapsed_time(self, other: object) -> float:
            return 2000.0

    monkeypatch.setattr(torch.cuda, "device", Device)
    monkeypatch.setattr(torch.cuda, "Event", Event)
    monkeypatch.setattr(torch.cuda, "synchronize", lambda device=None: None)
    assert step_seconds(lambda: None, 2, torch.device("cuda:1")) == [2.0, 2.0]
    assert current == [0]


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_the_time_of_a_gpu_is_that_of_its_work_and_not_of_launching_it():
    device = torch.device("cuda")
    matrix = torch.randn(8192, 8192, device=device)
    begin = time.perf_counter()
    seconds = step_seconds(lambda: torch.mm(matrix, matrix), 5, device)
    assert 0.5 * (time.perf_counter() - begin) < sum(seconds) <= time.perf_counter() - begin
