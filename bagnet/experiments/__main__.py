"""The command line of ``python -m bagnet.experiments``.

An experiment is a module here with two functions, ``add_arguments(parser)`` and ``run(options)``,
and an entry in ``EXPERIMENTS``; the first line of its docstring is its help. A ValueError or OSError
is a message for the user.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

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
    parser = argparse.ArgumentParser(prog="python -m bagnet.experiments")
    names = parser.add_subparsers(metavar="NAME", required=True)
    for name, module in EXPERIMENTS.items():
        text = module.__doc__ or ""
        command = names.add_parser(
            name,
            help=text.splitlines()[0].rstrip("."),
            description=text,
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )
        module.add_arguments(command)
        command.set_defaults(run=module.run)
    options = parser.parse_args(arguments)
    try:
        options.run(options)
    except (ValueError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("stopped; the same command goes on with what is left", file=sys.stderr)
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
