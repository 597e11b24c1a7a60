"""The command line `python -m bagnet.evidence`, also installed as `bagnet-evidence`."""

from __future__ import annotations

import sys
from collections.abc import Sequence

from bagnet.evidence.options import ReportOptions
from datamodules.common import commands
from datamodules.common.commands import Command

COMMANDS = {"report": Command("bagnet.evidence.report.command", ReportOptions, ("images",))}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; returns the exit code."""
    return commands.main("python -m bagnet.evidence", COMMANDS, arguments)


if __name__ == "__main__":
    sys.exit(main())
