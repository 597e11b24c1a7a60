"""Command lines of several commands: ``python -m bagnet.evidence NAME`` and ``python -m bagnet.experiments NAME``.

A command is a module with two functions, ``add_arguments(parser)`` and ``run(options)``; the first line of its docstring is
its help. A ValueError or OSError is a message for the user.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping, Sequence
from typing import Any


def run(
    program: str,
    commands: Mapping[str, Any],
    arguments: Sequence[str] | None,
    interrupted: str = "stopped",
) -> int:
    """Run one of the commands.

    Args:
        program: What the user types before the command's name.
        commands: The modules by name.
        arguments: Those behind the program; None takes the process's.
        interrupted: What to say at Ctrl-C.

    Returns:
        The exit code.
    """
    parser = argparse.ArgumentParser(prog=program)
    names = parser.add_subparsers(metavar="NAME", required=True)
    for name, module in commands.items():
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
        print(interrupted, file=sys.stderr)
        return 130
    return 0
