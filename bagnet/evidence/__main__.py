"""The command line of ``python -m bagnet.evidence``; its commands are modules as ``datamodules/common/commands.py`` runs them."""

from __future__ import annotations

import sys
from collections.abc import Sequence

from bagnet import old_commands as commands
from bagnet.evidence import report

COMMANDS = {"report": report}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; returns the exit code."""
    return commands.run("python -m bagnet.evidence", COMMANDS, arguments)


if __name__ == "__main__":
    sys.exit(main())
