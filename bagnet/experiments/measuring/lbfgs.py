"""L-BFGS for many independent problems at once."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator

import torch
from torch import Tensor

HISTORY = 10  # steps that the curvature is learned from
SUFFICIENT = 1e-4  # share of the decrease that the slope promises (Armijo's condition)


def minimise(loss: Callable[[Tensor], Tensor], start: Tensor, steps: int) -> Iterator[Tensor]:
    """Minimise a function of each row of a batch, by itself (Nocedal & Wright, algorithms 7.4 and 3.1).

    `torch.optim.LBFGS` would take the batch for one problem: one curvature and one step length for all. Here, whatever is
    decided, is decided for each row: a batch gives what its rows give alone. Each step evaluates the loss once. A row for
    which it has not fallen enough stays where it is and tries half the step next; while it does, its memory fades, down to
    steepest descent. So no row's loss ever rises.

    Args:
        loss: Of each row, (B, ...) -> (B,), differentiable; row b depends on row b only.
        start: (B, ...).
        steps: Evaluations, after that of the start.

    Yields:
        The rows after each step, (B, ...).
    """
    shape = start.shape

    def evaluate(rows: Tensor) -> tuple[Tensor, Tensor]:
        with torch.enable_grad():
            inputs = rows.view(shape).detach().requires_grad_()
            values = loss(inputs)
            (gradient,) = torch.autograd.grad(values.sum(), inputs)
        return values.detach()[:, None], gradient.flatten(1)

    x = start.detach().flatten(1)
    value, gradient = evaluate(x)
    memory: deque[tuple[Tensor, Tensor, Tensor]] = deque(maxlen=HISTORY)
    scale = torch.ones_like(value)  # of the inverse Hessian before the first of the memory
    length = gradient.abs().sum(1, keepdim=True).clamp(min=1).reciprocal()  # as torch's first step
    direction = -gradient
    for _ in range(steps):
        trial = x + length * direction
        trial_value, trial_gradient = evaluate(trial)
        slope = _dot(gradient, direction)
        falls = trial_value <= value + SUFFICIENT * length * slope  # false for NaN
        moved = torch.where(falls, trial - x, 0)
        change = torch.where(falls, trial_gradient - gradient, 0)
        curvature = _dot(moved, change)
        is_convex = curvature > 1e-10 * _dot(change, change).clamp(min=1e-10)
        inverse = torch.where(is_convex, 1 / curvature, 0)  # 0: this pair says nothing
        scale = torch.where(is_convex, curvature / _dot(change, change), scale)
        memory.append((moved, change, inverse))
        x = torch.where(falls, trial, x)
        value = torch.where(falls, trial_value, value)
        gradient = torch.where(falls, trial_gradient, gradient)
        direction = -_inverse_hessian(memory, scale, gradient)
        length = torch.where(falls, 1.0, length / 2)
        yield x.view(shape)


def _inverse_hessian(
    memory: deque[tuple[Tensor, Tensor, Tensor]], scale: Tensor, gradient: Tensor
) -> Tensor:
    """The two loops of L-BFGS: an estimate of the inverse Hessian times the gradient, (B, N)."""
    result = gradient.clone()
    weights = []
    for moved, change, inverse in reversed(memory):
        weights.append(inverse * _dot(moved, result))
        result -= weights[-1] * change
    result *= scale
    for (moved, change, inverse), weight in zip(memory, reversed(weights), strict=True):
        result += moved * (weight - inverse * _dot(change, result))
    return result


def _dot(a: Tensor, b: Tensor) -> Tensor:
    """(B, N) and (B, N) -> (B, 1)."""
    return (a * b).sum(1, keepdim=True)
