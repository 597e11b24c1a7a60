"""Whether a run is complete, so that there is nothing to resume."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path
from typing import Any

from pytorch_lightning import Callback, LightningModule, Trainer
from pytorch_lightning.callbacks import EarlyStopping, Timer

from bagnet.model.files import read_content


def why_complete(checkpoint: Path, trainer: Trainer) -> str | None:
    """Why a training that resumes from a checkpoint would end at once; None if it would not.

    Does not read the checkpoint's tensors.

    Raises:
        ValueError: It is not a checkpoint of a training.
    """
    content = read_content(checkpoint, tensors=False)
    try:
        return _why_complete(content, trainer)
    except (KeyError, TypeError, AttributeError, ValueError, OverflowError) as error:
        raise cannot_be_resumed(checkpoint, error) from error


def cannot_be_resumed(checkpoint: Path, error: BaseException) -> ValueError:
    """What to say of a file that has weights, perhaps, but not the state of a training."""
    reason = " ".join(f"{type(error).__name__}: {error}".split())[:200]
    return ValueError(
        f"{checkpoint} cannot be resumed from ({reason}): it is no checkpoint of such a training; "
        "give another one, or start from its weights (--model.weights FILE)"
    )


def _why_complete(content: dict[str, Any], trainer: Trainer) -> str | None:
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


class Restored(Callback):
    """Says in one line that a checkpoint does not fit, if Lightning fails while it restores it.

    Args:
        checkpoint: The file to resume from; None begins a new training.
    """

    def __init__(self, checkpoint: Path | None) -> None:
        self._checkpoint, self._restoring = checkpoint, False

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        self._restoring = self._checkpoint is not None

    def on_sanity_check_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._restoring = False

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._restoring = False

    def on_exception(
        self, trainer: Trainer, pl_module: LightningModule, exception: BaseException
    ) -> None:
        wrong = (KeyError, TypeError, AttributeError, IndexError, AssertionError)
        is_of_torch = type(exception) in (RuntimeError, ValueError) and _is_of_torch(exception)
        if self._restoring and self._checkpoint and (isinstance(exception, wrong) or is_of_torch):
            raise cannot_be_resumed(self._checkpoint, exception) from exception


def _is_of_torch(exception: BaseException) -> bool:
    """Whether torch has refused a state; what we and Lightning say is for users."""
    place = exception.__traceback__
    while place is not None and place.tb_next is not None:
        place = place.tb_next
    return place is not None and place.tb_frame.f_globals["__name__"].startswith("torch.")
