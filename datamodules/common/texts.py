"""Text files that people wrote: in any editor, on any system."""

from __future__ import annotations

import codecs
import json
from pathlib import Path
from typing import Any

from datamodules.common.reading import MAX_TEXT, read_plain


def read_text(path: Path) -> str:
    """Read a text in UTF-8, or in UTF-16 if it begins with its mark, as Windows writes it.

    Raises:
        ValueError: It is in another encoding, or has more than `MAX_TEXT`.
        OSError: It cannot be read, or is no plain file.
    """
    data = read_plain(path, MAX_TEXT)
    wide = data.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE))
    try:
        return data.decode("utf-16" if wide else "utf-8-sig")
    except UnicodeDecodeError as error:
        raise ValueError(
            f"{path} is not UTF-8 text ({error.reason} at byte {error.start:,}); save it as UTF-8"
        ) from None


def read_json(path: Path, remedy: str) -> Any:
    """Read JSON.

    Args:
        path: The file.
        remedy: What to do if it is damaged, for the message.

    Raises:
        ValueError: It is no JSON.
    """
    try:
        return json.loads(read_text(path))
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path} is damaged ({error}); {remedy}") from None


def read_lines(path: Path) -> list[tuple[int, str]]:
    """The lines of a text that are not blank, with their numbers from 1.

    Raises:
        ValueError: It is not UTF-8.
    """
    lines = read_text(path).replace("\r\n", "\n").replace("\r", "\n").split("\n")
    return [(number, line) for number, line in enumerate(lines, 1) if line.strip()]


def unquoted(field: str) -> str:
    """A field of a line without spaces and quotes around it, as spreadsheets write them."""
    field = field.strip()
    if len(field) > 1 and field[0] == field[-1] == '"':
        return field[1:-1].replace('""', '"').strip()
    return field
