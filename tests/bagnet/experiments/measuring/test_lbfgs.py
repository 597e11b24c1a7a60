"""The batched L-BFGS: torch's own, row by row, and no row that knows of another."""

from __future__ import annotations

from collections import deque

import pytest
import torch

from bagnet.experiments.measuring.lbfgs import HISTORY, minimise


def last(steps):
    return deque(steps, maxlen=1)[0]


def bowls(count, size=12, seed=0):
    """Convex quadratic functions of (count, size), and where each is least."""
    chance = torch.Generator().manual_seed(seed)
    mixing = torch.randn(count, size, size, generator=chance, dtype=torch.float64)
    hessian = mixing @ mixing.transpose(1, 2) / size + 3 * torch.eye(size)
    least = torch.randn(count, size, generator=chance, dtype=torch.float64)

    def loss(x, rows=slice(None)):
        away = x - least[rows]
        return 0.5 * torch.einsum("bi,bij,bj->b", away, hessian[rows], away)

    return loss, least


def rosenbrock(x):
    return (100 * (x[:, 1:] - x[:, :-1] ** 2) ** 2 + (1 - x[:, :-1]) ** 2).sum(1)


def test_every_row_takes_the_steps_that_torch_takes_for_it_alone():
    """On functions so round that no step needs to be cut: torch cuts none."""
    loss, _ = bowls(4)
    start = torch.zeros(4, 12, dtype=torch.float64)
    steps = 8
    together = last(minimise(loss, start, steps))
    for row in range(4):
        x = start[row].clone().requires_grad_()
        optimizer = torch.optim.LBFGS([x], max_iter=steps, max_eval=99, history_size=HISTORY)

        def closure(x=x, row=row, optimizer=optimizer):
            optimizer.zero_grad()
            value = loss(x[None], [row]).sum()
            value.backward()
            return value

        optimizer.step(closure)
        torch.testing.assert_close(together[row], x.detach(), rtol=1e-8, atol=1e-10)


def test_a_batch_gives_what_its_rows_give_alone():
    """Though one of them starts where steps must be cut, and one at the least point."""
    start = torch.tensor([[-1.2, 1.0], [1.0, 1.0], [30.0, -50.0]], dtype=torch.float64)
    together = list(minimise(rosenbrock, start, 60))
    for row in range(3):
        alone = list(minimise(rosenbrock, start[row, None], 60))
        for a, b in zip(together, alone, strict=True):
            torch.testing.assert_close(a[row], b[0], rtol=1e-6, atol=1e-9)


def test_no_loss_ever_rises_and_all_end_at_the_least_point():
    start = torch.tensor([[-1.2, 1.0, 0.5], [2.0, 2.0, -3.0], [9.0, -5.0, 4.0]]).double()
    values = torch.stack([rosenbrock(start), *map(rosenbrock, minimise(rosenbrock, start, 400))])
    assert (values.diff(dim=0) <= 0).all()
    assert values[-1].max() < 1e-8


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_a_step_to_where_the_loss_is_not_defined_is_cut(bad):
    def loss(x):
        return torch.where(x.abs() < 1.5, (x - 1) ** 2 * 8, bad).sum(1)

    end = last(minimise(loss, torch.tensor([[-1.0], [0.9]]).double(), 60))
    torch.testing.assert_close(end, torch.ones(2, 1).double(), rtol=1e-6, atol=1e-6)


def test_images_keep_their_shape():
    target = torch.rand(2, 3, 4, 5)
    end = last(minimise(lambda x: (x - target).square().sum((1, 2, 3)), torch.zeros(2, 3, 4, 5), 9))
    torch.testing.assert_close(end, target, rtol=1e-4, atol=1e-4)
