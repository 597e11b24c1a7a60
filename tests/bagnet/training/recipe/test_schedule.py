"""The learning rate at every moment of a training."""

from __future__ import annotations

import math

import pytest

from bagnet.training.recipe.schedule import learning_rate_factor, scaled_learning_rate


def test_learning_rate_scales_linearly_with_the_global_batch():
    assert scaled_learning_rate(0.01, 256) == 0.01
    assert scaled_learning_rate(0.01, 1024) == 0.04


def factors(moments: list[float], **settings: object) -> list[float]:
    defaults = {"schedule": "step", "epochs": 90, "warmup_epochs": 0, "decay_every": 30}
    return [learning_rate_factor(epoch, **{**defaults, **settings}) for epoch in moments]


def test_the_papers_schedule_divides_by_ten_every_30_epochs():
    assert factors([0, 29.999, 30, 59.9, 60, 89.9]) == pytest.approx([1, 1, 0.1, 0.1, 0.01, 0.01])


def test_warmup_rises_linearly_before_the_schedule():
    assert factors([0, 1, 2.5, 5], warmup_epochs=5) == pytest.approx([0, 0.2, 0.5, 1])


def test_cosine_falls_from_one_to_zero():
    settings = {"schedule": "cosine", "warmup_epochs": 10}
    expected = [1, 0.5 * (1 + math.cos(math.pi / 4)), 0.5, 0, 0]
    assert factors([10, 30, 50, 90, 91], **settings) == pytest.approx(expected, abs=1e-12)


def test_one_cycle_is_a_triangle():
    settings = {"schedule": "one-cycle", "warmup_epochs": 2, "epochs": 18}
    assert factors([0, 1, 2, 10, 18, 19], **settings) == pytest.approx([0, 0.5, 1, 0.5, 0, 0])


def test_a_constant_rate_stays_after_the_warmup():
    settings = {"schedule": "constant", "warmup_epochs": 2, "epochs": math.inf}
    assert factors([1, 2, 1000], **settings) == [0.5, 1, 1]


@pytest.mark.parametrize("schedule", ["step", "cosine", "one-cycle"])
def test_no_schedule_falls_below_its_floor(schedule):
    after_warmup = factors([5, 30, 60, 89, 90, 91], schedule=schedule, floor=0.05, warmup_epochs=5)
    assert after_warmup == sorted(after_warmup, reverse=True)
    assert after_warmup[0] == 1
    assert after_warmup[-1] == pytest.approx(0.05)
