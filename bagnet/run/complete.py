"""Whether a run is complete, so that there is nothing to resume."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path

import torch
from pytorch_lightning import Trainer
from pytorch_lightning.callbacks import EarlyStopping, Timer


def why_complete(checkpoint: Path, trainer: Trainer) -> str | None:
    """Why a training that resumes from a checkpoint would end at once; None if it would not.

    Does not read the checkpoint's tensors.
    """
    content = torch.load(checkpoint, map_location="meta", weights_only=True, mmap=True)
    epochs = int(content["loops"]["fit_loop"]["epoch_progress"]["current"]["processed"])
    if trainer.max_epochs is not None and 0 <= trainer.max_epochs <= epochs:
        return f"{epochs} of {trainer.max_epochs} epochs are done"
    steps = content["global_step"]
    if 0 <= trainer.max_steps <= steps:
        return (
            f"{steps} of {trainer.max_steps} steps are done; raise --trainer.max_steps to continue"
        )
    for callback in trainer.callbacks:  # type: ignore[attr-defined]
        state = content["callbacks"].get(callback.state_key, {})
        if isinstance(callback, EarlyStopping) and epochs >= (trainer.min_epochs or 0):
            reason = why_stopped(state.get("stopping_reason_message"))
            if reason:
                return f"{reason}; leave EarlyStopping out to continue"
        limit = callback.time_remaining() if isinstance(callback, Timer) else None
        if limit is not None:
            spent = state.get("time_elapsed", {}).get("train", 0.0)
            if spent >= limit:
                times = [timedelta(seconds=round(seconds)) for seconds in (spent, limit)]
                return f"{times[0]} of {times[1]} are over; raise --trainer.max_time for more"
    return None


def why_stopped(message: str | None) -> str | None:
    """What Lightning's early stopping says, without the signal that it gives its Trainer."""
    return message and message.removesuffix(" Signaling Trainer to stop.").removesuffix(".")
