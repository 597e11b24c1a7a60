"""The command line of ``python -m bagnet.experiments``; an experiment is a module as ``datamodules/common/commands.py`` runs it."""

from __future__ import annotations

import sys
from collections.abc import Sequence

from bagnet import old_commands as commands
from bagnet.experiments import (
    accuracy,
    aggregation,
    deletion,
    errors,
    interactions,
    patches,
    pointing,
    report,
    scrambling,
    sensitivity,
)

EXPERIMENTS = {
    "accuracy": accuracy,
    "patches": patches,
    "scrambling": scrambling,
    "interactions": interactions,
    "errors": errors,
    "sensitivity": sensitivity,
    "report": report,
    "aggregation": aggregation,
    "deletion": deletion,
    "pointing": pointing,
}
"""Those of the paper, the page of all results, and those of one BagNet."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one experiment; returns the exit code."""
    interrupted = "stopped; the same command goes on with what is left"
    return commands.run("python -m bagnet.experiments", EXPERIMENTS, arguments, interrupted)


if __name__ == "__main__":
    sys.exit(main())
