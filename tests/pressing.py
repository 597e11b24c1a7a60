"""Runs a program, and presses Ctrl-C at a moment: SIGINT to all its processes, as a terminal does.

    python pressing.py MOMENT TIMES PROGRAM ARGUMENTS...

MOMENT is `import=MODULE`, `before=FUNCTION` or `after=FUNCTION`, by its full name, in the process
that the user starts; PROGRAM is a path, or the name of a module.
"""

from __future__ import annotations

import importlib.abc
import os
import pkgutil
import runpy
import signal
import sys
from typing import Any

PRESSED = "Ctrl-C"


class Keyboard:
    """Presses Ctrl-C, once or several times in a row."""

    def __init__(self, times: int) -> None:
        self._times = times

    def press(self) -> None:
        times, self._times = self._times, 0
        if times:
            os.write(2, f"{PRESSED}\n".encode())
        for _ in range(times):
            os.killpg(0, signal.SIGINT)


class AtImport(importlib.abc.MetaPathFinder):
    """Presses Ctrl-C when a module is about to be imported."""

    def __init__(self, module: str, keyboard: Keyboard) -> None:
        self._module, self._keyboard = module, keyboard

    def find_spec(self, fullname: str, *_: Any) -> None:
        if fullname == self._module:
            self._keyboard.press()


def at_call(when: str, function: str, keyboard: Keyboard) -> None:
    """Press Ctrl-C before or after the first call of a function."""
    owner_name, _, name = function.rpartition(".")
    owner = pkgutil.resolve_name(owner_name)
    original = getattr(owner, name)

    def press_and_call(*arguments: Any, **options: Any) -> Any:
        if when == "before":
            keyboard.press()
        result = original(*arguments, **options)
        keyboard.press()
        return result

    setattr(owner, name, press_and_call)


def run(moment: str, times: str, program: str, *arguments: str) -> None:
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background jobs ignore it
    when, _, what = moment.partition("=")
    keyboard = Keyboard(int(times))
    if when == "import":
        sys.meta_path.insert(0, AtImport(what, keyboard))
    else:
        at_call(when, what, keyboard)
    sys.argv = [program, *arguments]
    if program.endswith(".py"):
        runpy.run_path(program, run_name="__main__")
    else:
        runpy.run_module(program, run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    run(*sys.argv[1:])
