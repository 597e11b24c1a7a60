"""The command line `python -m bagnet.experiments`, also installed as `bagnet-experiments`."""

from __future__ import annotations

import sys
from collections.abc import Sequence

from bagnet.experiments.options import EXPERIMENTS, ReportOptions
from datamodules.common import commands
from datamodules.common.commands import Command

COMMANDS = {
    name: Command(f"bagnet.experiments.{name}", options)
    for name, options in {**EXPERIMENTS, "report": ReportOptions}.items()
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one experiment; returns the exit code."""
    interrupted = "stopped; the same command resumes with what is left"
    return commands.main("python -m bagnet.experiments", COMMANDS, arguments, interrupted)


if __name__ == "__main__":
    sys.exit(main())
