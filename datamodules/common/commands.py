"""Command lines made from dataclasses of options, for every command but train.py. Imports nothing heavy.

The fields of the dataclass become flags with underscores, nested dataclasses become groups such as `--data.*`, and the
docstring's `Args:` become the help. So `--help` answers before torch is imported.
"""

from __future__ import annotations

import argparse
import ast
import dataclasses
import importlib
import importlib.util
import re
import sys
import typing
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NoReturn

import docstring_parser
from jsonargparse import ArgumentParser, DefaultHelpFormatter


@dataclasses.dataclass(frozen=True)
class Command:
    """A command, before anything of it is imported.

    Attributes:
        module: Dotted name of the module that runs it: its docstring is the command's help, and its `run(options)` is
            called, which may return an exit code.
        options: The dataclass of its options.
        positional: Fields of the options that are given by their place instead of a flag, in this order.
    """

    module: str
    options: type
    positional: tuple[str, ...] = ()


def main(
    program: str,
    commands: Mapping[str, Command] | Command,
    arguments: Sequence[str] | None = None,
    interrupted: str = "stopped",
) -> int:
    """Run one command. A mistake of the user's is one line, without a traceback.

    Args:
        program: What the user types before the command's name, such as `python -m datamodules.pack`.
        commands: The commands by name, or the only one, which then needs no name.
        arguments: What the user typed behind the program; None takes the process's.
        interrupted: The line that answers Ctrl-C.

    Returns:
        The exit code: 2 for a mistake of the user's, 130 for Ctrl-C.
    """
    words = list(sys.argv[1:] if arguments is None else arguments)
    command = commands
    if not isinstance(command, Command):
        assert isinstance(commands, Mapping)
        if not words or words[0] in ("-h", "--help"):
            print(_list_of(program, commands))
            return 0 if words else 2
        name, *words = words
        if name not in commands:
            known = ", ".join(commands)
            print(f"error: {program} has no command {name!r}: choose from {known}", file=sys.stderr)
            return 2
        program, command = f"{program} {name}", commands[name]
    try:
        options = parse(program, command, words)
        code = importlib.import_module(command.module).run(options)
    except (ValueError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print(interrupted, file=sys.stderr)
        return 130
    return code or 0


def parse(program: str, command: Command, words: Sequence[str]) -> Any:
    """Turn words into the command's options.

    Returns:
        An instance of `command.options`.

    Raises:
        SystemExit: Help was asked for (0), or the words are wrong (2); the user has been told.
    """
    parser = Parser(
        prog=program,
        description=docstring_of(command.module),
        formatter_class=_HelpFormatter,
        allow_abbrev=False,
    )
    cls = command.options
    types = typing.get_type_hints(cls)
    helps = {
        parameter.arg_name: " ".join((parameter.description or "").split())
        for parameter in docstring_parser.parse(cls.__doc__ or "").params
    }
    by_hand = []
    for field in dataclasses.fields(cls):
        # jsonargparse takes "--x a b" for a list but not "--x a".
        is_list = typing.get_origin(types[field.name]) is list
        is_positional = field.name in command.positional
        if is_list or is_positional:
            by_hand.append(field.name)
            settings: dict[str, Any] = {"help": helps.get(field.name), "type": types[field.name]}
            if is_list:
                settings |= {"nargs": "+", "type": typing.get_args(types[field.name])[0]}
            if not is_positional:
                required = field.default_factory is dataclasses.MISSING
                if not required:
                    assert callable(field.default_factory)
                    settings["default"] = field.default_factory()
                settings["required"] = required
            parser.add_argument(field.name if is_positional else f"--{field.name}", **settings)
    parser.add_class_arguments(cls, as_group=False, skip=set(by_hand))
    return cls(**vars(parser.instantiate(parser.parse_args(list(words)))))


class Parser(ArgumentParser):
    """Answers wrong words with one line that says what is wrong, not with a page of usage."""

    def error(self, message: str, ex: Exception | None = None) -> NoReturn:
        print(f"error: {one_line(message)}; see {self.prog} --help", file=sys.stderr)
        sys.exit(2)


def one_line(message: str) -> str:
    """A message of jsonargparse's in one line: the flag, the value, and the first reason."""
    lines = [line.strip() for line in message.splitlines() if line.strip()]
    key = re.search(r'key "([^"]+)"', message)
    value = re.search(r"(?:Given|Got) value: (.*)", message)
    if key is None:
        return " ".join(lines)
    reasons = [line for line in lines if re.match(r"(- )?(Expected|Not|Unexpected|Invalid)", line)]
    reason = (reasons or lines[1:] or lines)[0].removeprefix("- ").split(". Got value")[0]
    given = f" {value[1]}" if value else ""
    return f"--{key[1]}{given}: {reason.rstrip('.')}"


def docstring_of(module: str) -> str:
    """The docstring of a module that is not imported for it (its package is).

    Raises:
        ModuleNotFoundError: There is no such module.
    """
    spec = importlib.util.find_spec(module)
    if spec is None or spec.origin is None:
        raise ModuleNotFoundError(module)
    return ast.get_docstring(ast.parse(Path(spec.origin).read_text(encoding="utf-8"))) or ""


class _HelpFormatter(DefaultHelpFormatter, argparse.RawDescriptionHelpFormatter):
    """Keeps the lines of a module's docstring."""


def _list_of(program: str, commands: Mapping[str, Command]) -> str:
    """What `--help` without a command says: all of them, with the first line of their help."""
    width = max(map(len, commands))
    lines = [
        f"  {name:{width}}  {docstring_of(command.module).splitlines()[0].rstrip('.')}"
        for name, command in commands.items()
    ]
    return "\n".join(
        [f"usage: {program} COMMAND ...", "", *lines, "", f"more: {program} COMMAND --help"]
    )
