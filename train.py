"""Train and evaluate BagNets.

python train.py --patch 33 --gpus 8 --data.root /data/imagenet-shards
python train.py --config configs/demo.yaml
python train.py --help
"""

from __future__ import annotations

import errno
import shlex
import signal
import sys

from bagnet.run import signals
from bagnet.training.flags import SHORT_HELP, Command, expand, wants_short_help

ENVIRONMENT_ERRORS = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EACCES}


def main(arguments: list[str]) -> int:
    """Run one command and return the exit code; a mistake of the user's gets one message and no traceback."""
    if wants_short_help(arguments):
        print(SHORT_HELP)
        return 0
    try:
        command = expand(arguments)
        if command.arguments[0] != "fit":
            run(command)
            return 0
        with signals.listening():  # from now on: the imports take seconds
            run(command)
    except signals.Stopped as stop:
        return stopped(stop, arguments)
    except Exception as error:
        if not is_for_user(error):
            raise
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


def run(command: Command) -> None:
    # After --help was answered: these take seconds to import.
    from bagnet.training.classifier import BagNetClassifier
    from bagnet.training.cli import BagNetCLI
    from datamodules.imagenet import ImageNetDataModule

    BagNetCLI(BagNetClassifier, ImageNetDataModule, command)


def stopped(stop: signals.Stopped, arguments: list[str]) -> int:
    """Say how to go on; the exit code is that of a program that the signal ended, by which a job knows to requeue itself.

    Rank 0 has it alone: srun would kill the others at the first that comes back with an error.
    """
    signal.signal(signal.SIGTERM, signal.SIG_IGN)  # srun's, to those who end later than others
    from pytorch_lightning.utilities import rank_zero_only

    if getattr(rank_zero_only, "rank", 0) != 0:
        return 0
    saved = "saved" if stop.checkpoint else "nothing to save yet"
    resume = [] if "--resume" in arguments else ["--resume", "auto"]
    again = shlex.join(["python", "train.py", *arguments, *resume])
    print(f"\nstopped by {stop.signal.name}, {saved}; go on with: {again}", flush=True)
    return 128 + stop.signal


def is_for_user(error: Exception) -> bool:
    """Whether a person can act on the message alone: our own ValueErrors, Lightning's, and a disk that is full or closed."""
    if isinstance(error, OSError) and error.errno in ENVIRONMENT_ERRORS:
        return True
    if type(error).__name__ == "MisconfigurationException":
        return True
    raised_in = error.__traceback__
    while raised_in is not None and raised_in.tb_next is not None:
        raised_in = raised_in.tb_next
    package = raised_in.tb_frame.f_globals["__name__"].split(".")[0] if raised_in else ""
    return isinstance(error, ValueError) and package in ("bagnet", "datamodules", "__main__")


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
