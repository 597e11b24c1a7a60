"""The command line `python -m datamodules.pack`, also installed as `bagnet-pack`."""

from __future__ import annotations

import signal
import sys
from collections.abc import Sequence
from types import FrameType

from datamodules.common import commands
from datamodules.common.commands import Command
from datamodules.pack import options

COMMANDS = {
    "imagefolder": Command(
        "datamodules.pack.sources.imagefolder", options.ImageFolderOptions, ("src", "out")
    ),
    "ilsvrc": Command("datamodules.pack.sources.ilsvrc", options.IlsvrcOptions, ("src", "out")),
    "parquet": Command("datamodules.pack.sources.parquet", options.ParquetOptions, ("src", "out")),
    "csv": Command("datamodules.pack.sources.table", options.CsvOptions, ("src", "out")),
    "humans": Command("datamodules.pack.sources.humans", options.HumansOptions, ("src", "out")),
    "wds": Command("datamodules.pack.sources.wds", options.WdsOptions, ("src", "out")),
    "index": Command("datamodules.pack.index", options.IndexOptions, ("src", "out")),
    "describe": Command("datamodules.pack.describe", options.DescribeOptions, ("out",)),
    "verify": Command("datamodules.pack.verify", options.VerifyOptions, ("out",)),
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; returns the exit code, which is 128 + n if signal n ended it."""
    # `kill` and SLURM's warning of the time limit stop a run as Ctrl-C does: at once, with nothing
    # half-written.
    signals = (signal.SIGTERM, signal.SIGUSR1)
    previous = {each: signal.signal(each, _interrupt) for each in signals}
    interrupted = "interrupted; the same command resumes (index and verify start over)"
    try:
        return commands.main("python -m datamodules.pack", COMMANDS, arguments, interrupted)
    finally:
        for each, handler in previous.items():
            signal.signal(each, handler)


def _interrupt(number: int, frame: FrameType | None) -> None:
    raise KeyboardInterrupt(number)


if __name__ == "__main__":
    sys.exit(main())
