"""Damages files of arrays, tables and pictures so that their outer layers stay right."""

from __future__ import annotations

import io
import json
import zlib
from collections.abc import Callable
from random import Random
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from tests.soak.fuzz.mutations import (
    NUMBERS,
    TEXTS,
    Mutation,
    changed_value,
    json_values,
    some_bytes,
)

_SHAPES = (
    "()",
    "(-1,)",
    "(10000000000000,)",
    "(3, 3)",
    "(0,)",
    "(1e9,)",
    "None",
    "(((((1,),),),),)",
    "1",
)
_TYPES = (
    "'O'",
    "'<f8'",
    "'|V0'",
    "'<u8,'",
    "[('a', 'O')]",
    "[('', '<u8')]",
    "'S1000000000'",
    "'|S0'",
)
_TYPES += ("__import__('os')", "'" + "(1," * 500 + "'", "[('offset', '<u8')]", "'>M8[ns]'")


def npy_header(data: bytes, rng: Random) -> bytes:
    """Change the header of a file of NumPy, which is a text in Python; its length is made right."""
    size = int.from_bytes(data[8:10], "little")
    header, rest = data[10 : 10 + size].decode(), data[10 + size :]
    kind = rng.randrange(5)
    if kind == 0:
        begin = header.index("'shape': ") + 9
        header = header[:begin] + rng.choice(_SHAPES) + ", }"
    elif kind == 1:
        header = "{'descr': " + rng.choice(_TYPES) + ", 'fortran_order': False, 'shape': (3,), }"
    elif kind == 2:
        header = rng.choice(
            ("{", "(" * 5000, "x", "", "{'descr': 1}", "-" * 9000, "'" * 3, "\0", "[" * 90)
        )
    elif kind == 3:
        header = some_bytes(header.encode(), rng).decode("latin-1")
    else:
        rest = rng.choice((b"", rest * 2, rest[:-1], b"\x80\x04."))
    encoded = header.encode("latin-1", "replace") + b"\n"
    return data[:8] + len(encoded).to_bytes(2, "little") + encoded + rest


def npy_rows(data: bytes, rng: Random) -> bytes:
    """Change numbers in a structured array of NumPy."""
    rows = np.load(io.BytesIO(data))
    for _ in range(rng.choice((1, 1, 2, 4))):
        name = rng.choice([name for name in rows.dtype.names if name != "key"])
        size = rows.dtype[name].itemsize
        number = rng.choice((*NUMBERS, int(rows[name][0]) + 1, int(rows[name][-1]) - 1))
        value = np.frombuffer((number % (1 << 8 * size)).to_bytes(size, "little"), rows.dtype[name])
        rows[name][rng.randrange(len(rows))] = value[0]
    output = io.BytesIO()
    np.save(output, rows)
    return output.getvalue()


def safetensors_header(data: bytes, rng: Random) -> bytes:
    """Change the JSON at the beginning of safetensors; its length is made right, or absurd."""
    size = int.from_bytes(data[:8], "little")
    header = json_values(data[8 : 8 + size], rng)
    length = rng.choice((len(header),) * 9 + (1 << 63,))
    return length.to_bytes(8, "little") + header + data[8 + size :]


def parquet_columns(metadata: bytes) -> Mutation:
    """Change columns of a Parquet file, and the JSON in its metadata under this key."""

    def mutated(data: bytes, rng: Random) -> bytes:
        table = pq.read_table(io.BytesIO(data))
        facts = dict(table.schema.metadata or {})
        at = rng.randrange(table.num_columns)
        name, kind = table.column_names[at], rng.randrange(8)
        if kind == 0:
            table = table.drop_columns([name])
        elif kind == 1:
            table = table.rename_columns(
                [rng.choice(TEXTS) if n == name else n for n in table.column_names]
            )
        elif kind == 2:
            table = table.slice(0, 0)
        elif kind < 6:
            table = table.set_column(at, name, _other_column(table.num_rows, rng))
        if kind > 5 and metadata in facts:
            facts[metadata] = json_values(facts[metadata], rng)
        elif kind > 5:
            facts[metadata] = json.dumps(changed_value({"a": 1}, rng), default=str).encode(
                errors="replace"
            )
        output = io.BytesIO()
        pq.write_table(table.replace_schema_metadata(facts), output)
        return output.getvalue()

    return mutated


def _other_column(rows: int, rng: Random) -> pa.Array:
    makers: tuple[Callable[[], Any], ...] = (
        lambda: pa.nulls(rows),
        lambda: pa.array([rng.choice(TEXTS)] * rows),
        lambda: pa.array([rng.choice(TEXTS).encode("utf-8", "replace")] * rows),
        lambda: pa.array([rng.choice([n for n in NUMBERS if n < 1 << 63])] * rows, pa.int64()),
        lambda: pa.array([(1 << 64) - 1] * rows, pa.uint64()),
        lambda: pa.array([float("nan")] * rows),
        lambda: pa.array([[1, 2]] * rows),
        lambda: pa.array(
            [{"bytes": None, "path": None}] * rows,
            pa.struct({"bytes": pa.binary(), "path": pa.string()}),
        ),
        lambda: pa.array([{"bytes": 1}] * rows),
        lambda: pa.array([None] * (rows - 1) + [1] if rows else [], pa.int64()),
        lambda: pa.array([rng.choice(TEXTS)] * rows).dictionary_encode(),
        lambda: pa.array([True] * rows),
    )
    return rng.choice(makers)()


def png_chunks(data: bytes, rng: Random) -> bytes:
    """Change, repeat, move and remove chunks of a PNG; their CRCs are right."""
    chunks, at = [], 8
    while at < len(data):
        size = int.from_bytes(data[at : at + 4], "big")
        chunks.append((data[at + 4 : at + 8], data[at + 8 : at + 8 + size]))
        at += 12 + size
    where, kind = rng.randrange(len(chunks)), rng.randrange(6)
    name, content = chunks[where]
    if kind == 0:
        del chunks[where]
    elif kind == 1:
        chunks.insert(rng.randrange(len(chunks)), chunks[where])
    elif kind == 2:
        text = rng.choice((b"tEXt", b"zTXt", b"iCCP", b"eXIf", b"acTL", b"fdAT", b"PLTE", b"tRNS"))
        chunks.insert(
            where,
            (text, rng.choice((rng.randbytes(99), b"a\0\0" + zlib.compress(bytes(9_000_000))))),
        )
    elif kind == 3 and name == b"IDAT":
        chunks[where] = name, zlib.compress(some_bytes(zlib.decompress(content), rng))
    else:
        chunks[where] = name, some_bytes(content, rng)
    made = (
        len(c).to_bytes(4, "big") + n + c + zlib.crc32(n + c).to_bytes(4, "big") for n, c in chunks
    )
    return data[:8] + b"".join(made)
