"""How the help of a command looks: as wide as the terminal, with commands and paths unbroken."""

from __future__ import annotations

import argparse
import textwrap
import typing
from pathlib import Path
from typing import Any

from jsonargparse import DefaultHelpFormatter


def wrapped(text: str, width: int, indent: str = "") -> list[str]:
    """Lines of at most this width, unless a word is longer: no path or flag is broken."""
    return textwrap.wrap(
        text, width, subsequent_indent=indent, break_long_words=False, break_on_hyphens=False
    )


class HelpFormatter(DefaultHelpFormatter):
    """Wraps paragraphs and keeps examples; adds defaults, but no names of Python types."""

    def _fill_text(self, text: str, width: int, indent: str) -> str:
        """Wrap a docstring, but for its lines that are indented, as commands and tables are."""
        lines: list[str] = []
        paragraph = ""
        for line in [*text.splitlines(), ""]:
            is_item = paragraph.startswith("* ")
            if not line or line.startswith("* ") or (line.startswith(" ") and not is_item):
                lines += wrapped(paragraph, width, "  " if is_item else "")
                paragraph = ""
            if not line or (line.startswith(" ") and not is_item):
                lines.append(line)
            else:
                paragraph = f"{paragraph} {line.strip()}".strip()
        return "\n".join(lines)

    def _split_lines(self, text: str, width: int) -> list[str]:
        return wrapped(text, width)

    def _get_help_string(self, action: argparse.Action) -> str:
        text = action.help or ""
        nothing = (None, False, argparse.SUPPRESS)
        if action.default == [] or any(action.default is each for each in nothing):
            return text
        return f"{text} (default: %(default)s)"


def metavar_of(hint: Any) -> str | None:
    """A short word for the value of a flag in its help, `N|lossless`; None for the flag's name."""
    words = {bool: "{true,false}", int: "N", float: "X", Path: "PATH"}
    parts = [part for part in (hint, *typing.get_args(hint)) if part is not type(None)]
    choices = [
        str(value)
        for part in parts
        if typing.get_origin(part) is typing.Literal
        for value in typing.get_args(part)
    ]
    kinds = [part for part in parts if isinstance(part, type)]
    word = next((words[k] for part in kinds for k in words if issubclass(part, k)), None)
    if choices:
        return "|".join([word, *choices]) if word else f"{{{','.join(choices)}}}"
    return word
