"""The command line `python -m datamodules.audit`."""

from __future__ import annotations

import sys
from functools import partial

from datamodules.audit.options import AuditOptions
from datamodules.common import commands
from datamodules.common.commands import Command

COMMAND = Command("datamodules.audit.command", AuditOptions, ("folder",))
main = partial(commands.main, "python -m datamodules.audit", COMMAND)

if __name__ == "__main__":
    sys.exit(main())
