"""How runs of the wandb package start, where they are then, and what it says when it fails."""

from __future__ import annotations

import logging
import os
import sys
from pathlib import Path
from typing import Any

import wandb
from pydantic import ValidationError

from bagnet.run import signals
from datamodules.processes.children import blocking
from datamodules.remote.urls import redacted_words

_DEFAULTS = {"project": "bagnet", "console": "off", "init_timeout": 30.0, "finish_timeout": 60.0}
"""W&B's settings if neither its variables nor its files have them. A start that waits longer for an
answer works offline; the end waits for uploads less than SLURM's notice (`wandb sync` sends the
rest)."""


def start_run(folder: Path, **settings: Any) -> Any:
    """Start or resume a run of the wandb package; the only place that does.

    W&B's own variables and files come before what is given here. With neither `WANDB_MODE` nor an
    API key the run is kept offline, and so it is if W&B does not answer. Nothing is ever asked,
    since a batch job has nobody to answer.

    Args:
        folder: Existing or not; W&B's files are written to its subfolder `wandb`.
        **settings: Fields of `wandb.Settings`.

    Returns:
        A `wandb.Run`, which is a context manager.

    Raises:
        Exception: W&B refuses its settings, or cannot work at all; see `reason`.
    """
    os.environ.setdefault("WANDB_SILENT", "true")  # `location` says what a user needs to know
    logging.raiseExceptions = False  # W&B's own log on a full disk is no page of traceback
    given = _set_up(folder)
    settings = {"root_dir": str(folder), **_DEFAULTS, **settings}
    settings = {k: v for k, v in settings.items() if k not in given.model_fields_set}
    mode = given.mode
    if mode not in ("offline", "dryrun", "disabled"):
        try:
            # Without verify=False, it would use the network already here.
            if wandb.login(prompt=False, verify=False):
                return _init(**settings)
        except wandb.Error as error:
            print(f"W&B is not available ({reason(error)}); working offline")
            wandb.teardown()  # it still holds the run's id
            _set_up(folder)
        mode = "offline"
    return _init(**settings, mode=mode)


def _init(**settings: Any) -> Any:
    """Call `wandb.init`, which keeps the command line, with the passwords in its URLs removed."""
    words = sys.argv
    sys.argv = redacted_words(words)
    try:
        return wandb.init(settings=wandb.Settings(**settings))
    finally:
        sys.argv = words


def _set_up(folder: Path) -> wandb.Settings:
    """Start W&B's process, and return what its variables and files say.

    Signals do not reach the process. What it prints goes to a file: its log, if it cannot write
    that to the user's cache, and Go's stack traces.
    """
    (folder / "wandb").mkdir(parents=True, exist_ok=True)
    stderr = os.dup(2)
    with blocking(signals.STOPPING), (folder / "wandb" / "service.log").open("a") as log:
        os.dup2(log.fileno(), 2)
        try:
            return wandb.setup().settings
        finally:
            os.dup2(stderr, 2)
            os.close(stderr)


def reason(error: BaseException) -> str:
    """Say in one line what W&B says at length, without values, as they may be secrets."""
    if isinstance(error, ValidationError):  # of W&B's settings
        first = error.errors(include_url=False)[0]
        cause = first.get("ctx", {}).get("error")
        field = str(first["loc"][0]) if first["loc"] else ""
        named = [f"WANDB_{field.upper()}", f"WANDB_{field.removeprefix('run_').upper()}"]
        name = next((name for name in named if name in os.environ), field)
        text = reason(cause) if isinstance(cause, Exception) else first["msg"]
        return f"{name}: {text}" if name else text
    if isinstance(error, wandb.Error | ValueError):
        return str(error).partition("\n")[0]
    return repr(error)


def location(run: Any) -> list[str]:
    """Where to find a run of the wandb package, in lines for the user.

    Args:
        run: What `start_run` returned, or a logger's stand-in for it.

    Returns:
        The run's address or, if it is offline, the commands that show and upload it; empty if W&B
        is disabled or has failed.
    """
    if not isinstance(run, wandb.Run) or run.disabled:
        return []
    if run.offline:
        files = run.settings.wandb_dir
        return [f"offline; view: wandb leet {files}", f"upload: wandb sync {files}/offline-run-*"]
    return [str(run.url)]
