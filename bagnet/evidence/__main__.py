"""The command line of ``python -m bagnet.evidence``.

A command is a module here with two functions, ``add_arguments(parser)`` and ``run(options)``, and
an entry in ``COMMANDS``; the first line of its docstring is its help. A ValueError or OSError is a
message for the user.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

from bagnet.evidence import report

COMMANDS = {"report": report}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; returns the exit code."""
    parser = argparse.ArgumentParser(prog="python -m bagnet.evidence")
    names = parser.add_subparsers(metavar="COMMAND", required=True)
    for name, module in COMMANDS.items():
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
    return 0


if __name__ == "__main__":
    sys.exit(main())
