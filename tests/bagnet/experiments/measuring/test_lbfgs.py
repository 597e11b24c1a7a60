"""The batched L-BFGS takes torch's steps row by row, and no row influences another."""

from __future__ import annotations

import pytest
import torch

from bagnet.experiments.measuring.lbfgs import HISTORY, minimise


def rosenbrock(x):
    return (100 * (x[:, 1:] - x[:, :-1] ** 2) ** 2 + (1 - x[:, :-1]) ** 2).sum(1)


def test_every_row_takes_the_steps_that_torch_takes_for_it_alone():
    """The functions are so round that no step is cut, as torch never cuts one."""
    size, steps = 12, 8
    chance = torch.Generator().manual_seed(0)
    mixing = torch.randn(4, size, size, generator=chance, dtype=torch.float64)
    hessian = mixing @ mixing.transpose(1, 2) / size + 3 * torch.eye(size)
    least = torch.randn(4, size, generator=chance, dtype=torch.float64)

    def loss(x, rows=slice(None)):
        away = x - least[rows]
        return 0.5 * torch.einsum("bi,bij,bj->b", away, hessian[rows], away)

    start = torch.zeros(4, size, dtype=torch.float64)
    together = minimise(loss, start, steps)
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


@pytest.mark.parametrize("steps", [1, 7, 60])
def test_a_batch_gives_what_its_rows_give_alone(steps):
    """Even if one row starts where steps must be cut, and another at the minimum."""
    start = torch.tensor([[-1.2, 1.0], [1.0, 1.0], [30.0, -50.0]], dtype=torch.float64)
    together = minimise(rosenbrock, start, steps)
    alone = torch.cat([minimise(rosenbrock, row[None], steps) for row in start])
    torch.testing.assert_close(together, alone, rtol=1e-6, atol=1e-9)


def test_the_loss_never_rises_and_all_rows_reach_the_minimum():
    start = torch.tensor([[-1.2, 1.0, 0.5], [2.0, 2.0, -3.0], [9.0, -5.0, 4.0]]).double()
    ends = [minimise(rosenbrock, start, steps) for steps in (*range(12), 20, 40, 80, 400)]
    values = torch.stack([rosenbrock(end) for end in ends])
    assert torch.equal(ends[0], start)
    assert (values.diff(dim=0) <= 0).all()
    assert values[-1].max() < 1e-8


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_a_step_to_where_the_loss_is_not_defined_is_cut(bad):
    def loss(x):
        return torch.where(x.abs() < 1.5, (x - 1) ** 2 * 8, bad).sum(1)

    end = minimise(loss, torch.tensor([[-1.0], [0.9]]).double(), 60)
    torch.testing.assert_close(end, torch.ones(2, 1).double(), rtol=1e-6, atol=1e-6)


def test_images_keep_their_shape():
    target = torch.rand(2, 3, 4, 5)
    end = minimise(lambda x: (x - target).square().sum((1, 2, 3)), torch.zeros(2, 3, 4, 5), 9)
    torch.testing.assert_close(end, target, rtol=1e-4, atol=1e-4)
