"""The command line `python -m datamodules.demo`."""

from __future__ import annotations

import sys
from collections.abc import Sequence

from datamodules.common import commands
from datamodules.common.commands import Command
from datamodules.demo.options import DemoOptions

COMMAND = Command("datamodules.demo.generate", DemoOptions, ("out",))


def main(arguments: Sequence[str] | None = None) -> int:
    """Generate the data set; returns the exit code."""
    interrupted = "interrupted; the same command starts the unfinished split again"
    return commands.main("python -m datamodules.demo", COMMAND, arguments, interrupted)


if __name__ == "__main__":
    sys.exit(main())
