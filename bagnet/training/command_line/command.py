"""The command behind `python train.py` and the installed program `bagnet`.

It answers `--help` and mistakes in the short flags before it imports torch and Lightning, which
takes seconds.
"""

from __future__ import annotations

import atexit
import gc
import importlib
import re
import shlex
import signal
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from bagnet.run import ranks, signals
from bagnet.training.command_line.flags import (
    CommandLine,
    expand,
    is_trial,
    program,
    short_help,
    wants_short_help,
)
from datamodules.common.errors import (
    REMEDIES,
    ReadingEnded,
    explain,
    reader_left,
    told,
    too_little_memory,
    warn_in_one_line,
)
from datamodules.processes.forkserver import forkserver_context
from datamodules.processes.leftovers import remove_leftovers_soon
from datamodules.remote.urls import redacted_words

WITHOUT_TRAINER = {"predict": "bagnet.predict.options", "export": "bagnet.export.options"}
"""Commands that are not LightningCLI's, and where their options are."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command. A user's mistake is reported in one line, without a traceback.

    Args:
        arguments: The words after the program's name; None takes the process's.

    Returns:
        The exit code: 0, 2 for a mistake, 128 + N on rank 0 after signal N stopped the training.
    """
    words = list(sys.argv[1:] if arguments is None else arguments)
    if words and words[0] in WITHOUT_TRAINER:
        from datamodules.common import commands

        name, *rest = words
        command = importlib.import_module(WITHOUT_TRAINER[name]).COMMAND
        return commands.main(f"{program()} {name}", command, rest)
    try:
        try:
            _main(words)
        finally:
            sys.stdout.flush()  # here, where it may fail, also after a page of help
    except BrokenPipeError:
        return reader_left()
    except signals.Stopped as stop:
        return _stopped(stop, words)
    except Exception as error:
        if ranks.is_connection_lost(error):
            return 1
        if not _is_for_user(error):
            raise
        print(f"error: {told(_message(error))}", file=sys.stderr)
        return 2
    return 0


def _main(words: list[str]) -> None:
    if wants_short_help(words):
        print(short_help())
        return
    command = expand(words)
    is_training = command.arguments[0] == "fit"
    if is_training:
        ranks.hint(f"; resume with: {_resuming(words)}")
    with signals.listening() if is_training else signals.raising():  # also during the imports
        _run(command)


def _run(command: CommandLine) -> None:
    ranks.end_with_rank_0()
    warn_in_one_line(quietly=not ranks.is_first())
    remove_leftovers_soon()
    if not re.search(r"(^| )(-h|--help|--data\.workers[ =]0)( |$)", " ".join(command.arguments)):
        forkserver_context()  # imports what workers need, while this process imports the rest
    with _nothing_collected():
        from bagnet.training.classifier import BagNetClassifier
        from bagnet.training.command_line.cli import BagNetCLI
        from datamodules.imagenet import ImageNetDataModule

    BagNetCLI(BagNetClassifier, ImageNetDataModule, command)


@contextmanager
def _nothing_collected() -> Iterator[None]:
    """Import without garbage collection, which would take a fifth of the time and find nothing."""
    gc.disable()
    try:
        yield
    finally:
        if gc.get_freeze_count() == 0:  # not twice, or the last command's garbage would stay
            gc.freeze()  # or the next collection would look through all modules
            atexit.register(gc.unfreeze)  # or Triton would report leaks when Python ends
        gc.enable()


def _stopped(stop: signals.Stopped, words: list[str]) -> int:
    """Print how to resume, and return the exit code of a program that the signal ended.

    On that code the job script requeues the job. Only rank 0 returns it, because srun kills all
    other ranks as soon as one of them fails.
    """
    signal.signal(signal.SIGTERM, signal.SIG_IGN)  # from srun, to the ranks that finish last
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # or another Ctrl-C would end in a traceback
    if not ranks.is_first():
        return 0
    text = f"\nstopped by {stop.signal.name}"
    if words[:1] not in (["validate"], ["test"]):
        text += ", saved; " if stop.checkpoint else ", nothing to save yet; "
        text += f"resume with: {_resuming(words)}"
    print(text, flush=True)
    return 128 + stop.signal


def _resuming(words: list[str]) -> str:
    """The command that resumes a training, without passwords."""
    command = expand(words)
    resume = [] if command.resume == "auto" else ["--resume", "auto"]
    if is_trial():
        resume += ["--name", command.run.name]
    shown = redacted_words(words)
    text = f"{program()} {shlex.join([*shown, *resume])}"
    if shown != words:
        text += "\n(and what is left out of its URLs here, such as a password)"
    return text


def _message(error: Exception) -> str:
    if lacking := too_little_memory(error):
        return f"{lacking}; lower --data.batch_size (docs/troubleshooting.md has other ways)"
    if _is_of_wandb(error):
        from bagnet.run.loggers.wandb_start import reason

        return f"W&B says: {reason(error)}"
    if isinstance(error, ReadingEnded):
        return f"{error}{ranks.how_to_resume()}"
    return explain(error) if isinstance(error, OSError) else str(error)


def _is_of_wandb(error: Exception) -> bool:
    """Whether W&B refuses the settings of a logger that the user has chosen."""
    return type(error).__module__.split(".")[0] in ("wandb", "pydantic_core")


def _is_for_user(error: Exception) -> bool:
    """Whether the message alone helps: our ValueErrors, Lightning's refusals, and what a machine
    lacks, such as room on a disk."""
    if isinstance(error, ReadingEnded) or _is_of_wandb(error) or too_little_memory(error):
        return True
    if isinstance(error, OSError) and error.errno in REMEDIES:
        return True
    if type(error).__name__ == "MisconfigurationException":
        return True
    innermost = error.__traceback__
    while innermost is not None and innermost.tb_next is not None:
        innermost = innermost.tb_next
    package = innermost.tb_frame.f_globals["__name__"].split(".")[0] if innermost else ""
    if package in ("pytorch_lightning", "lightning_fabric"):
        return isinstance(error, ValueError | RuntimeError | TypeError | ImportError)
    return isinstance(error, ValueError) and package in ("bagnet", "datamodules")
