"""The command line `python -m datamodules.demo`."""

from __future__ import annotations

import sys
from functools import partial

from datamodules.common import commands
from datamodules.common.commands import Command
from datamodules.demo.options import DemoOptions

COMMAND = Command("datamodules.demo.generate", DemoOptions, ("out",))
main = partial(
    commands.main,
    "python -m datamodules.demo",
    COMMAND,
    interrupted="interrupted; the same command starts the unfinished split again",
)

if __name__ == "__main__":
    sys.exit(main())
