"""The command line `python -m datamodules.audit`."""

from __future__ import annotations

import sys
from collections.abc import Sequence

from datamodules.audit.options import AuditOptions
from datamodules.common import commands
from datamodules.common.commands import Command

COMMAND = Command("datamodules.audit.command", AuditOptions, ("folder",))


def main(arguments: Sequence[str] | None = None) -> int:
    """Check a folder; returns the exit code."""
    return commands.main("python -m datamodules.audit", COMMAND, arguments)


if __name__ == "__main__":
    sys.exit(main())
