"""Damages pickles in checkpoints: code in them, absurd tensors, and content of other kinds."""

from __future__ import annotations

import io
import os
import pickle
import zipfile
from collections import OrderedDict
from random import Random
from typing import Any

import torch

from tests.soak.fuzz import planted
from tests.soak.fuzz.mutations import NUMBERS, TEXTS, some_bytes

_TENSORS = (
    lambda: torch.tensor(float("nan")),
    lambda: torch.full((3, 4), float("inf")),
    lambda: torch.zeros(1).expand(1 << 40),
    lambda: torch.zeros(4).as_strided((1 << 20, 1 << 20), (0, 0)),
    lambda: torch.zeros(0),
    lambda: torch.zeros(3, 4, dtype=torch.complex64),
    lambda: torch.zeros(3, 4, dtype=torch.bool),
    lambda: torch.eye(3).to_sparse(),
    lambda: torch.empty(3, 4, device="meta"),
    lambda: torch.quantize_per_tensor(torch.rand(3, 4), 0.1, 0, torch.qint8),
    lambda: torch.nested.nested_tensor([torch.zeros(2), torch.zeros(3)]),
)


class Calls:
    """Calls a function when it is unpickled."""

    def __init__(self, function: Any, *arguments: Any) -> None:
        self._call = function, arguments

    def __reduce__(self) -> Any:
        return self._call


def _code(rng: Random) -> Any:
    """Something that runs code when it is unpickled without care."""
    return Calls(
        *rng.choice(
            (
                (planted.run,),
                (os.system, "true"),
                (os.mkdir, "/tmp/escaped-by-a-pickle"),
                (eval, "__import__('os').getpid()"),
                (exec, "import antigravity"),
                (getattr, os, "system"),
                (torch.hub.load, "x/y", "z"),
                (io.open, "/tmp/escaped-by-a-pickle", "w"),
            )
        )
    )


def opcodes(data: bytes, rng: Random) -> bytes:
    """Damage the pickle of a zip; its CRC is made right."""
    kind = rng.randrange(6)
    if kind == 0:
        return pickle.dumps(_code(rng), rng.choice((0, 2, 4)))
    if kind == 1:
        return (
            b"\x80\x02" + b"]" * 100_000 + b"."
            if rng.random() < 0.5
            else b"\x80\x02" + b"(" * 50_000
        )
    if kind == 2:  # numbers of tensors: elements, offsets, shapes and strides
        places = [at for at in range(len(data) - 5) if data[at : at + 1] in (b"K", b"M", b"J")]
        at = rng.choice(places)
        changed = bytearray(data)
        changed[at : at + 2] = b"\x8a\x08" + (rng.choice(NUMBERS) % (1 << 64)).to_bytes(8, "little")
        return bytes(changed)
    return some_bytes(data, rng)


def contents(data: bytes, rng: Random) -> bytes:
    """A checkpoint as torch writes it, with another content."""
    content = torch.load(io.BytesIO(data), weights_only=True)
    kind = rng.randrange(8)
    if kind == 0:
        content = rng.choice(
            (content["state_dict"], [content], None, 5, "x", torch.zeros(3), {}, {1: 2})
        )
    elif kind == 1:
        content["code"] = _code(rng)
    else:
        for _ in range(rng.choice((1, 1, 2))):
            _change(content, rng)
    output = io.BytesIO()
    torch.save(content, output, _use_new_zipfile_serialization=rng.random() < 0.9)
    return output.getvalue()


def _change(content: Any, rng: Random) -> None:
    """Change one value somewhere in dicts and lists."""
    places = list(_places(content))
    if not places:
        return
    where, key = rng.choice(places)
    kind = rng.randrange(6)
    if kind == 0:
        del where[key]
    elif kind == 1:
        where[key] = rng.choice(_TENSORS)()
    elif kind == 2 and isinstance(where, dict):
        where[rng.choice((*TEXTS, 0, None, (1, 2), 0.5))] = where.pop(key)
    elif kind == 3:
        where[key] = content  # which contains it
    elif kind == 4:
        deep: Any = []
        for _ in range(rng.choice((10, 200))):  # torch refuses to write more
            deep = [deep]
        where[key] = deep
    else:
        others = (
            None,
            True,
            float("nan"),
            -0.5,
            [],
            {},
            OrderedDict(),
            {"a": {}},
            {1, 2},
            b"x",
            1j,
        )
        where[key] = rng.choice((rng.choice(NUMBERS), rng.choice(TEXTS), rng.choice(others)))


def _places(content: Any, depth: int = 6) -> Any:
    if isinstance(content, dict | list) and depth:
        for key, value in list(
            content.items() if isinstance(content, dict) else enumerate(content)
        ):
            yield content, key
            yield from _places(value, depth - 1)


def is_zip(data: bytes) -> bool:
    return zipfile.is_zipfile(io.BytesIO(data))
