"""The learning rate as a pure function of the step, and how long a training is."""

from __future__ import annotations

import math
from typing import Literal

from pytorch_lightning import Trainer

Schedule = Literal["step", "cosine", "one-cycle", "constant"]

REFERENCE_BATCH = 256
"""The global batch for which recipes state their learning rate."""


def scaled_learning_rate(learning_rate: float, global_batch: int) -> float:
    """Scale a learning rate for 256 images a step linearly (Goyal et al. 2017, section 2.1)."""
    return learning_rate * global_batch / REFERENCE_BATCH


def learning_rate_factor(
    epoch: float,
    *,
    schedule: Schedule,
    epochs: float,
    warmup_epochs: float,
    decay_every: int,
    floor: float = 0.0,
) -> float:
    """Compute the factor of the base learning rate at one moment of the training.

    Args:
        epoch: Optimizer steps done, in epochs: 1.5 is the middle of the second one.
        schedule: `"step"` divides by ten every `decay_every` epochs (the paper's recipe).
            `"cosine"` falls from the end of the warm-up to the end of the training along half a
            cosine (Loshchilov & Hutter 2017), `"one-cycle"` along a straight line (Smith & Topin
            2019, as in ffcv-imagenet). `"constant"` does not fall.
        epochs: Length of the training.
        warmup_epochs: Length of the linear rise from zero.
        decay_every: Epochs between two steps.
        floor: The factor that the schedule does not fall below.
    """
    if epoch < warmup_epochs:
        return epoch / warmup_epochs
    if schedule == "constant":
        return 1.0
    if schedule == "step":
        return max(floor, 0.1 ** (int(epoch) // decay_every))
    progress = min((epoch - warmup_epochs) / max(epochs - warmup_epochs, 1e-9), 1.0)
    left = 0.5 * (1 + math.cos(math.pi * progress)) if schedule == "cosine" else 1 - progress
    return floor + (1 - floor) * left


def steps_per_epoch(trainer: Trainer) -> float:
    """Optimizer steps per epoch; infinite if the loader has no length."""
    steps = trainer.num_training_batches / trainer.accumulate_grad_batches
    return steps if math.isinf(steps) else math.ceil(steps)


def epochs_of(trainer: Trainer) -> float:
    """Length of the training, by the first limit that it reaches; infinite if it has none."""
    steps = steps_per_epoch(trainer)
    limited = trainer.max_steps >= 0 and math.isfinite(steps)
    by_steps = trainer.max_steps / steps if limited else math.inf
    by_epochs = -1 if trainer.max_epochs is None else trainer.max_epochs
    return min(by_steps, by_epochs if by_epochs >= 0 else math.inf)


def epochs_done(trainer: Trainer) -> float:
    """Optimizer steps done, in epochs; whole ones if the loader has no length."""
    steps = steps_per_epoch(trainer)
    return trainer.current_epoch if math.isinf(steps) else trainer.global_step / steps


def require_length(trainer: Trainer, schedule: Schedule, warmup_epochs: float) -> None:
    """Refuse a schedule that needs to know what nothing says.

    Raises:
        ValueError: The schedule needs the training's end, but neither epochs nor steps are limited;
            or it needs an epoch's length, and the loader has none.
    """
    falls_to_the_end = schedule in ("cosine", "one-cycle")
    if math.isinf(steps_per_epoch(trainer)) and (warmup_epochs or falls_to_the_end):
        raise ValueError(
            f"the schedule {schedule!r} with {warmup_epochs:g} epochs of warm-up needs the length "
            "of an epoch, which this loader does not tell: set limit_train_batches of the Trainer"
        )
    if falls_to_the_end and math.isinf(epochs_of(trainer)):
        raise ValueError(
            f"the schedule {schedule!r} falls until the training ends, but this one has no limit; "
            "set --trainer.max_epochs or --trainer.max_steps"
        )
