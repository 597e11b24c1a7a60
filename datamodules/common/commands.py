"""Command lines made from dataclasses of options, for every command but train.py.

The fields of the dataclass become flags with underscores, nested dataclasses become groups such as
`--data.*`, and the docstring's `Args:` become the help. Nothing heavy is imported before the
command runs, so `--help` answers at once.
"""

from __future__ import annotations

import ast
import dataclasses
import importlib
import importlib.util
import re
import shutil
import sys
import typing
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NoReturn

import docstring_parser
from jsonargparse import ArgumentParser

from datamodules.common.errors import (
    explain,
    reader_left,
    told,
    too_little_memory,
    warn_in_one_line,
)
from datamodules.common.files import user_path
from datamodules.common.help import HelpFormatter, metavar_of, wrapped
from datamodules.remote.urls import redacted_text


@dataclasses.dataclass(frozen=True)
class Command:
    """A command, before anything of it is imported.

    The docstring of `module` is the command's help, and its `run(options)` is called, which may
    return an exit code. Fields of the options in `positional` are given by position, in this order.
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
    """Run one command. A user's mistake is reported in one line, without a traceback.

    Args:
        program: What the user types before the command's name: `python -m datamodules.pack`.
        commands: The commands by name, or the only one, which then needs no name.
        arguments: What the user typed after the program; None takes the process's arguments.
        interrupted: The line printed after Ctrl-C.

    Returns:
        The exit code: 2 for a user's mistake, 130 for Ctrl-C, and 128 + n if the command raised
        `KeyboardInterrupt(n)` because of signal n.
    """
    words = list(sys.argv[1:] if arguments is None else arguments)
    warn_in_one_line()
    try:
        if isinstance(commands, Command):
            command = commands
        else:
            if not words or words[0] in ("-h", "--help"):
                print(_list_of(program, commands), flush=True)
                return 0 if words else 2
            name, *words = words
            if name not in commands:
                known = ", ".join(commands)
                print(
                    f"error: {program} has no command {name!r}: choose from {known}",
                    file=sys.stderr,
                )
                return 2
            program, command = f"{program} {name}", commands[name]
        try:
            options = parse(program, command, words)
            code = importlib.import_module(command.module).run(options)
        finally:
            sys.stdout.flush()  # here, where it may fail, also after a page of help
    except BrokenPipeError:
        return reader_left()
    except (ValueError, OSError) as error:
        message = explain(error) if isinstance(error, OSError) else str(error)
        print(f"error: {told(message)}", file=sys.stderr)
        return 2
    except (MemoryError, RuntimeError) as error:
        lacking = too_little_memory(error)
        if lacking is None:
            raise
        print(f"error: {lacking}; give less at once", file=sys.stderr)
        return 2
    except KeyboardInterrupt as interrupt:
        print(interrupted, file=sys.stderr)
        return 128 + (interrupt.args[0] if interrupt.args else 2)
    return code or 0


def parse(program: str, command: Command, words: Sequence[str]) -> Any:
    """Turn words into an instance of the command's options.

    Raises:
        SystemExit: Help was requested (0), or the words are wrong (2); the user has been told.
    """
    parser = Parser(
        prog=program,
        description=docstring_of(command.module),
        formatter_class=HelpFormatter,
        allow_abbrev=False,
    )
    cls = command.options
    types = typing.get_type_hints(cls)
    helps = {
        parameter.arg_name: " ".join((parameter.description or "").split())
        for base in reversed(cls.__mro__)
        for parameter in docstring_parser.parse(base.__doc__ or "").params
    }
    plain = [f for f in dataclasses.fields(cls) if not dataclasses.is_dataclass(types[f.name])]
    order = [*command.positional, *(f.name for f in plain if f.name not in command.positional)]
    flags, places = ["[OPTIONS]"], []  # of a short usage: the list of options is below it
    for field in sorted(plain, key=lambda field: order.index(field.name)):
        hint = types[field.name]
        settings: dict[str, Any] = {"help": helps.get(field.name), "type": hint}
        if typing.get_origin(hint) is list:  # jsonargparse would take "--x a b" but not "--x a"
            settings |= {"nargs": "+", "type": typing.get_args(hint)[0]}
        if field.name in command.positional:
            place = field.name.upper()
            if "nargs" in settings:
                place += f" [{place} ...]"
            if field.default_factory is not dataclasses.MISSING:  # a list that may be empty
                settings |= {"nargs": "*", "default": field.default_factory()}
                place = f"[{field.name.upper()} ...]"
            places.append(place)
            parser.add_argument(field.name, metavar=field.name.upper(), **settings)
            continue
        metavar = metavar_of(hint)
        if metavar is not None and len(metavar) > 40:
            settings["help"] = f"{settings['help']} Choose from {metavar[1:-1].replace(',', ', ')}."
            metavar = field.name.upper()
        if metavar is not None:
            settings["metavar"] = metavar
        default = field.default
        if field.default_factory is not dataclasses.MISSING:
            default = field.default_factory()
        is_required = default is dataclasses.MISSING
        if is_required:
            value = settings.get("metavar", "{")  # choices are in the list below
            value = field.name.upper() if value.startswith("{") else value
            flags.append(f"--{field.name} {value}")
        settings["default"] = None if is_required else default
        parser.add_argument(f"--{field.name}", required=is_required, **settings)
    parser.add_class_arguments(cls, as_group=False, skip={field.name for field in plain})
    parser.usage = " ".join([program, *flags, *places])
    switches = {f"--{field.name}" for field in plain if types[field.name] is bool}
    values = parser.parse_args(list(_with_values(words, switches)))
    return _plain(cls(**vars(parser.instantiate(values))))


class Parser(ArgumentParser):
    """Answers wrong words with one line that says what is wrong, not with a page of usage."""

    def error(self, message: str, ex: Exception | None = None) -> NoReturn:
        print(f"error: {redacted_text(one_line(message))}; see {self.prog} --help", file=sys.stderr)
        sys.exit(2)


def one_line(message: str) -> str:
    """Shorten a message of jsonargparse to one line: the flag, the value, and the first reason."""
    lines = [line.strip() for line in message.splitlines() if line.strip()]
    key = re.search(r'key "([^"]+)"', message)
    if key is None:
        return " ".join(lines)
    value = re.search(r"(?:Given|Got) value: (.*)", message) or re.search(
        r"Not of type \w+: (?:(?!does)(\S+) does not|.*: '(.*)')", message
    )
    reasons = [line for line in lines if re.match(r"(- )?(Expected|Not|Unexpected|Invalid)", line)]
    reasons.sort(key=lambda line: "<class 'float'>" not in line)  # of two numbers, the wider one
    reason = (reasons or lines[1:] or lines)[0].removeprefix("- ").split(". Got value")[0]
    reason = reason.removeprefix(f'Parser key "{key[1]}": ')
    given = next((f" {text}" for text in value.groups() if text), "") if value else ""
    text = _in_words(reason.rstrip("."))
    words = re.search(r"Expected a typing.Literal\[(.*)\]", message)
    if words and words[0] not in reason:  # beside a number
        text += f", or {words[1]}".replace("'", "")
    return f"--{key[1]}{given}: {text}"


def _in_words(reason: str) -> str:
    """Replace what only a Python programmer would understand in a reason of jsonargparse."""
    if limits := re.search("does not conform to restriction (.*)", reason):
        text = limits[1].replace("v>=", "at least ").replace("v<=", "at most ")
        return "it must be " + text.replace("v>", "more than ").replace("v<", "less than ")
    if "invalid literal for int()" in reason or reason == "Expected a <class 'int'>":
        return "it must be a whole number"
    if "could not convert string to float" in reason or reason == "Expected a <class 'float'>":
        return "it must be a number"
    if choices := re.match(r"Expected a typing.Literal\[(.*)\]", reason):
        return f"choose from {choices[1]}".replace("'", "")
    return reason.replace("Expected a <class 'bool'>", "it must be true or false")


def docstring_of(module: str) -> str:
    """Read the docstring of a module without importing it (its package is imported)."""
    spec = importlib.util.find_spec(module)
    assert spec, f"no module {module}"
    return ast.get_docstring(ast.parse(Path(spec.origin or "").read_text(encoding="utf-8"))) or ""


def _with_values(words: Sequence[str], switches: set[str]) -> Iterator[str]:
    """Let `--switch` alone mean `--switch true`."""
    for number, word in enumerate(words, start=1):
        yield word
        following = words[number].lower() if number < len(words) else ""
        if word in switches and following not in ("true", "false", "yes", "no"):
            yield "true"


def _plain(value: Any) -> Any:
    """Replace jsonargparse's numbers, which no other process can unpickle, and `~` in paths."""
    if isinstance(value, list):
        return [_plain(each) for each in value]
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        names = [field.name for field in dataclasses.fields(value)]
        return dataclasses.replace(value, **{name: _plain(getattr(value, name)) for name in names})
    if isinstance(value, Path):
        return user_path(value)
    for kind in (int, float):
        if isinstance(value, kind) and not isinstance(value, bool):
            return kind(value)
    return value


def _list_of(program: str, commands: Mapping[str, Command]) -> str:
    """What `--help` without a command prints: each command with the first line of its help."""
    width, columns = max(map(len, commands)), shutil.get_terminal_size().columns
    text = f"usage: {program} COMMAND ...\n\n"
    for name, command in commands.items():
        about = docstring_of(command.module).splitlines()[0].rstrip(".")
        lines = wrapped(f"  {name:{width}}  {about}", columns - 2, " " * (width + 4))
        text += "\n".join(lines) + "\n"
    return f"{text}\nmore: {program} COMMAND --help"
