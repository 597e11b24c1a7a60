"""The command line `python -m bagnet.experiments`, also installed as `bagnet-experiments`."""

from __future__ import annotations

import sys
from collections.abc import Sequence

from bagnet.experiments.commands import COMMANDS
from datamodules.common import commands


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one experiment; returns the exit code."""
    interrupted = "stopped; the same command resumes with what is left"
    return commands.main("python -m bagnet.experiments", COMMANDS, arguments, interrupted)


if __name__ == "__main__":
    sys.exit(main())
