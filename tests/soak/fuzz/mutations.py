"""Damages files: any bytes, values of JSON, and lines of text.

A mutation takes the bytes of a sound file and a random generator, and returns other bytes.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from random import Random
from typing import Any

Mutation = Callable[[bytes, Random], bytes]

NUMBERS = (0, -1, 1, 255, 1 << 16, (1 << 31) - 1, 1 << 31, (1 << 32) - 1, 1 << 32, 1 << 62)
NUMBERS += ((1 << 63) - 1, 1 << 63, (1 << 64) - 1, 1 << 64, 10**30, 10**400)
TEXTS = (
    "",
    " ",
    "x",
    "é",
    "\u202e",
    "😀",
    "\x00",
    "a\nb",
    "../../escaped",
    "/tmp/escaped",
    "~",
    "$HOME",
)
TEXTS += (
    "nan",
    "inf",
    "-1",
    "1e999",
    "0x10",
    "null",
    "pipe:touch escaped",
    "a" * 300,
    "b" * 200_000,
)
TEXTS += (
    '"',
    "'",
    ",",
    "\t",
    "|",
    "{}",
    "[]",
    "%s%n",
    "<script>",
    "n01440764",
    "file:///etc/passwd",
)
_TOKENS = (b"\0", b"\xff", b"\xff" * 8, b"\x7f\xff\xff\xff", b"\x80" + bytes(7), b"-1", b"NaN")
_TOKENS += (b"{", b"[", b"[" * 3000, b'"', b"\n", b"\r\n", b"../../x", b"9" * 25, b"\xef\xbb\xbf")
_DEEP = 100_000  # levels of nested lists


def some_bytes(data: bytes, rng: Random) -> bytes:
    """Flip, overwrite, insert, repeat, swap and remove bytes, and cut the file."""
    changed = bytearray(data)
    for _ in range(rng.choice((1, 1, 1, 2, 4, 16))):
        _one_change(changed, rng)
    return bytes(changed)


def first_bytes(data: bytes, rng: Random) -> bytes:
    """The same within the first 64 bytes, where most formats have their sizes."""
    return some_bytes(data[:64], rng) + data[64:]


def last_bytes(data: bytes, rng: Random) -> bytes:
    """The same within the last 256 bytes, where Parquet and zip archives have their tables."""
    return data[:-256] + some_bytes(data[-256:], rng)


def _one_change(data: bytearray, rng: Random) -> None:
    at = rng.randrange(len(data) + 1)
    end = at + rng.choice((1, 2, 4, 8, 64, 512))
    kind = rng.randrange(8)
    if kind == 0 and data:
        data[at % len(data)] ^= 1 << rng.randrange(8)
    elif kind == 1:
        data[at:end] = rng.randbytes(end - at)
    elif kind == 2:
        data[at:at] = rng.choice(_TOKENS)
    elif kind == 3:
        number = rng.choice(NUMBERS) % (1 << 64)
        size = rng.choice((1, 2, 4, 8))
        order = rng.choice(("little", "big"))
        data[at : at + size] = (number % (1 << 8 * size)).to_bytes(size, order)
    elif kind == 4:
        data[at:at] = data[at:end]
    elif kind == 5:
        other = rng.randrange(len(data) + 1)
        data[at:end] = data[other : other + end - at]
    elif kind == 6:
        del data[at:end]
    else:
        del data[at:]


def json_values(data: bytes, rng: Random) -> bytes:
    """Replace, remove, repeat and move values of JSON; the result is JSON but for NaN."""
    content = json.loads(data)
    for _ in range(rng.choice((1, 1, 1, 2, 3))):
        content = changed_value(content, rng)
    return _dumped(content)


def json_lines(data: bytes, rng: Random) -> bytes:
    """The same in one of the lines of a file that has JSON in each."""
    rows = data.splitlines()
    at = rng.randrange(len(rows))
    rows[at] = json_values(rows[at], rng)
    return b"\n".join(rows) + b"\n"


def changed_value(content: Any, rng: Random) -> Any:
    """Change one value somewhere in lists and dicts."""
    places = list(_places(content))
    if not places or rng.random() < 0.02:
        return odd_value(rng)
    where, key = rng.choice(places)
    kind = rng.randrange(10)
    if kind == 0:
        del where[key]
    elif kind == 1:
        where[key] = [where[key]]
    elif kind == 2:
        other, its_key = rng.choice(places)
        where[key] = json.loads(json.dumps(other[its_key]))
    elif kind == 3 and isinstance(where, list):
        where.extend(where[:100])
    elif kind == 4 and isinstance(where, dict):
        where[rng.choice(TEXTS)] = where[key]
    elif kind == 5 and isinstance(where[key], int):
        where[key] += rng.choice((-1, 1))
    else:
        where[key] = odd_value(rng)
    return content


def odd_value(rng: Random) -> Any:
    """A value that a program may not expect."""
    others = (
        None,
        True,
        False,
        [],
        {},
        [[]],
        [None],
        {"": 0},
        float("nan"),
        float("inf"),
        -0.0,
        0.5,
    )
    return rng.choice((rng.choice(NUMBERS), rng.choice(TEXTS), rng.choice(others), _Deep()))


class _Deep(str):
    """Stands for many levels of nested lists."""


def _dumped(content: Any) -> bytes:
    mark = "deep-deep-deep"
    text = json.dumps(_marked(content, mark))
    return text.replace(f'"{mark}"', "[" * _DEEP + "]" * _DEEP).encode("utf-8", "surrogatepass")


def _marked(content: Any, mark: str) -> Any:
    if isinstance(content, _Deep):
        return mark
    if isinstance(content, dict):
        return {key: _marked(value, mark) for key, value in content.items()}
    return [_marked(value, mark) for value in content] if isinstance(content, list) else content


def _places(content: Any) -> Any:
    """Each value in lists and dicts, as the container and the key."""
    if isinstance(content, dict | list):
        for key, value in content.items() if isinstance(content, dict) else enumerate(content):
            yield content, key
            yield from _places(value)


def fields(separator: str) -> Mutation:
    """Change lines of a table of text, and fields that this character separates."""

    def mutated(data: bytes, rng: Random) -> bytes:
        rows = [line.split(separator) for line in data.decode().splitlines()]
        for _ in range(rng.choice((1, 1, 2, 4))):
            _change_table(rows, rng, separator)
        end = rng.choice(("\n", "\n", "\n", "\r\n", "\r"))
        text = end.join(separator.join(row) for row in rows) + rng.choice((end, end, ""))
        return text.encode(rng.choice(("utf-8", "utf-8", "utf-8", "utf-8-sig", "utf-16")))

    return mutated


def _change_table(rows: list[list[str]], rng: Random, separator: str) -> None:
    if not rows:
        rows.append([""])
    at, other = rng.randrange(len(rows)), rng.randrange(len(rows))
    field = rng.randrange(max(1, len(rows[at])))
    kind = rng.randrange(9)
    if kind == 0:
        del rows[at]
    elif kind == 1:
        rows.insert(other, list(rows[at]))
    elif kind == 2:
        rows[at], rows[other] = rows[other], rows[at]
    elif kind == 3:
        rows[at] = rows[at][:field]
    elif kind == 4:
        rows[at].insert(field, rng.choice(TEXTS))
    elif kind == 5:
        rows.insert(at, [])
    else:
        odd = rng.choice((rng.choice(TEXTS), str(rng.choice(NUMBERS)), f'"{separator}', "\x85"))
        rows[at][field : field + 1] = [odd]
