"""The command line `python -m bagnet.experiments`, also installed as `bagnet-experiments`."""

from __future__ import annotations

import sys
from collections.abc import Sequence

from bagnet.experiments import options
from datamodules.common import commands
from datamodules.common.commands import Command

EXPERIMENTS = {
    name: Command(f"bagnet.experiments.{name}", options_class)
    for name, options_class in {
        "accuracy": options.MeasureOptions,
        "patches": options.PatchesOptions,
        "scrambling": options.ScramblingOptions,
        "interactions": options.InteractionsOptions,
        "errors": options.ErrorsOptions,
        "sensitivity": options.SensitivityOptions,
        "deletion": options.DeletionOptions,
        "aggregation": options.AggregationOptions,
        "pointing": options.MeasureOptions,
        "report": options.ReportOptions,
    }.items()
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one experiment; returns the exit code."""
    interrupted = "stopped; the same command resumes with what is left"
    return commands.main("python -m bagnet.experiments", EXPERIMENTS, arguments, interrupted)


if __name__ == "__main__":
    sys.exit(main())
