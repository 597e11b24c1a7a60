"""Runs a notebook and writes what its cells print and show into it: `make notebook`.

Jupyter would do the same with thirty more packages to install. Here are text, code, `!commands`,
and values that are pictures or text.
"""

from __future__ import annotations

import ast
import base64
import contextlib
import io
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from PIL import Image


def run(path: Path) -> None:
    """Execute all code cells, in the folder of the notebook, and write their outputs."""
    notebook = json.loads(path.read_text())
    names: dict[str, Any] = {"__name__": "__main__"}
    cells = [cell for cell in notebook["cells"] if cell["cell_type"] == "code"]
    os.chdir(path.parent)
    for number, cell in enumerate(cells, 1):
        with contextlib.redirect_stdout(io.StringIO()) as printed:
            value = _execute("".join(cell["source"]), names)
        cell["outputs"] = list(_outputs(printed.getvalue(), value, number))
        cell["execution_count"] = number
    path.write_text(json.dumps(notebook, indent=1, ensure_ascii=False) + "\n")


def _execute(source: str, names: dict[str, Any]) -> Any:
    """Execute a cell; returns the value of its last expression, if it ends with one."""
    lines = (f"_shell({line[1:]!r})" if line[:1] == "!" else line for line in source.split("\n"))
    names["_shell"] = _shell
    tree = ast.parse("\n".join(lines))
    last = tree.body.pop() if isinstance(tree.body[-1], ast.Expr) else None
    exec(compile(tree, "cell", "exec"), names)
    if isinstance(last, ast.Expr):
        return eval(compile(ast.Expression(last.value), "cell", "eval"), names)
    return None


def _shell(command: str) -> None:
    command = command.replace("python ", f"{sys.executable} ", 1)
    done = subprocess.run(command, shell=True, check=True, stdout=subprocess.PIPE, text=True)
    print(done.stdout, end="")


def _outputs(printed: str, value: Any, number: int) -> Iterator[dict[str, Any]]:
    if printed:
        yield {"output_type": "stream", "name": "stdout", "text": printed.splitlines(True)}
    if isinstance(value, Image.Image):
        file = io.BytesIO()
        value.quantize().save(file, "PNG", optimize=True)  # 256 colours are a third of the bytes
        data: dict[str, Any] = {"image/png": base64.b64encode(file.getvalue()).decode()}
    elif value is not None:
        data = {"text/plain": repr(value).splitlines(True)}
    else:
        return
    result = {"output_type": "execute_result", "execution_count": number}
    yield {**result, "data": data, "metadata": {}}


if __name__ == "__main__":
    run(Path(sys.argv[1]).resolve())
