"""L-BFGS for a batch of independent problems.

`torch.optim.LBFGS` and SciPy treat a batch as one problem, with one curvature and one step length
for all rows; textures need the pictures of a batch to be optimised together, for the GPU's sake,
and to be what each would be alone.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable

import torch
from torch import Tensor

HISTORY = 10
"""Steps from which the curvature is estimated."""

SUFFICIENT = 1e-4
"""Share of the decrease predicted by the slope that a step must reach (Armijo's condition)."""

Memory = deque[tuple[Tensor, Tensor, Tensor]]


def minimise(loss: Callable[[Tensor], Tensor], start: Tensor, steps: int) -> Tensor:
    """Minimise a function of each row of a batch (Nocedal & Wright, algorithms 7.4 and 3.1).

    Every decision is made for each row separately, so a batch gives what its rows give alone. Each
    step evaluates the loss once. If the loss of a row has not fallen enough, the row stays where it
    is and tries half the step next; meanwhile its memory fades, in the end to steepest descent. So
    the loss of a row never rises.

    Args:
        loss: Differentiable function (B, ...) -> (B,), whose value b depends on row b only.
        start: First rows, float (B, ...).
        steps: Evaluations of the loss after that of the start.

    Returns:
        The rows after the last step, (B, ...).
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
    memory: Memory = deque(maxlen=HISTORY)
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
        inverse = torch.where(is_convex, 1 / curvature, 0)  # 0: the pair is ignored
        scale = torch.where(is_convex, curvature / _dot(change, change), scale)
        memory.append((moved, change, inverse))
        x = torch.where(falls, trial, x)
        value = torch.where(falls, trial_value, value)
        gradient = torch.where(falls, trial_gradient, gradient)
        direction = -_inverse_hessian(memory, scale, gradient)
        length = torch.where(falls, 1.0, length / 2)
    return x.view(shape)


def _inverse_hessian(memory: Memory, scale: Tensor, gradient: Tensor) -> Tensor:
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
