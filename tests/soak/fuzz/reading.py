"""How the readers of files are called here, and what counts as an answer to a damaged file."""

from __future__ import annotations

import contextlib
import io
import pickle
import sys
import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

from datamodules.common import commands
from datamodules.common.commands import Command
from datamodules.common.errors import explain, told
from tests.soak.fuzz.mutations import Mutation
from tests.soak.outcomes import CRASH, LIMIT, LOST, SILENT

REPOSITORY = Path(__file__).resolve().parents[3]


@dataclass(frozen=True)
class Kind:
    """A kind of files.

    Args:
        row: The row of the table that counts it.
        file: Path of the file that is damaged, below the folder of `prepare`.
        prepare: Writes a sound file of this kind into an empty folder, and what belongs to it.
        mutations: How it is damaged; one is chosen for each input.
        read: Reads the file in the folder, as the project's commands do. What it writes goes to
            `out` there, which is removed before.
        names: What the line of an error may say, if not the file's name.
    """

    row: str
    file: str
    prepare: Callable[[Path], Any]
    mutations: Sequence[Mutation]
    read: Callable[[Path], Any]
    names: tuple[str, ...] = ()


class Refused(Exception):
    """A command has ended with an error; the argument is what it wrote to stderr."""


class Lost(Exception):
    """What was whole is lost or changed; the argument says what."""


def run(module: ModuleType, options: Any) -> int:
    """Run a command with these options, with the real handling of errors.

    Raises:
        Refused: The command ended with exit code 2.
    """
    error = io.StringIO()
    parse, commands.parse = commands.parse, lambda *_: options
    try:
        with contextlib.redirect_stderr(error):
            code = commands.main("fuzz", Command(module.__name__, type(options)), [])
    finally:
        commands.parse = parse
    if code == 2:
        raise Refused(error.getvalue())
    assert code in (0, 1), code
    return code


def judge(error: BaseException, kind: Kind) -> tuple[str, str] | None:
    """What an exception from a reader means; None if the file was refused as it should be."""
    if isinstance(error, MemoryError):
        return LIMIT, f"it fills the memory: {_place(error)}"
    if isinstance(error, Lost):
        return LOST, str(error)
    if isinstance(error, Refused):
        lines = str(error).splitlines()
        begins = [number for number, line in enumerate(lines) if line.startswith("error: ")]
        if not begins:
            return CRASH, f"no error on stderr: {str(error)[-99:]!r}"
        message = "\n".join(lines[begins[-1] :])
    elif isinstance(error, OSError) and error.errno is not None:
        message = told(explain(error))
    elif isinstance(error, ValueError) and _is_ours(error):
        message = told(str(error))
    else:
        return CRASH, _place(error)
    if "\n" in message or "Traceback" in message:
        return CRASH, f"more than a line: {message[:200]!r}"
    if not any(name in message for name in (Path(kind.file).name, *kind.names)):
        return SILENT, f"does not name the file: {message[:200]}"
    return None


def _is_ours(error: BaseException) -> bool:
    """Whether it was raised by the project, and not by a library that it uses."""
    file = traceback.extract_tb(error.__traceback__)[-1].filename
    return file.startswith((str(REPOSITORY / "bagnet"), str(REPOSITORY / "datamodules")))


def _place(error: BaseException) -> str:
    """The kind of an exception and where it was raised, without what differs between inputs."""
    frames = traceback.extract_tb(error.__traceback__)
    own = next(
        (
            f
            for f in reversed(frames)
            if f.filename.startswith(str(REPOSITORY / "bagnet"))
            or f.filename.startswith(str(REPOSITORY / "datamodules"))
        ),
        frames[-1],
    )
    last = frames[-1]
    text = f"{type(error).__name__} at {Path(last.filename).name}:{last.lineno}"
    if own is not last:
        text += f", called at {Path(own.filename).name}:{own.lineno}"
    return text


class OnePool:
    """Stands for `datamodules.processes.pool.Pool`: everything is done in this process.

    Errors pass through pickle, as they do on their way from a worker.
    """

    def __init__(self, count: int) -> None:
        pass

    def __enter__(self) -> OnePool:
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def run(self, function: Callable[[Any], Any], tasks: Sequence[Any], progress: Any) -> list[Any]:
        try:
            return [function(task) for task in tasks]
        except Exception as error:
            raise pickle.loads(pickle.dumps(error)) from error


def in_this_process() -> None:
    """Let all commands work in this process, and not wait for the disk."""
    import os

    os.fsync = lambda file: None
    from datamodules.processes.pool import Pool

    for module in list(sys.modules.values()):
        if module.__name__.startswith("datamodules.") and getattr(module, "Pool", None) is Pool:
            module.Pool = OnePool
