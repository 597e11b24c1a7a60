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
import subprocess
import sys
from pathlib import Path
from typing import Any


def run(path: Path) -> None:
    """Execute all code cells, in the folder of the notebook, and write their outputs."""
    notebook = json.loads(path.read_text())
    names: dict[str, Any] = {"__name__": "__main__"}
    cells = [cell for cell in notebook["cells"] if cell["cell_type"] == "code"]
    for number, cell in enumerate(cells, 1):
        printed = io.StringIO()
        with contextlib.redirect_stdout(printed), contextlib.chdir(path.parent):
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


def _outputs(printed: str, value: Any, number: int) -> Any:
    if printed:
        yield {"output_type": "stream", "name": "stdout", "text": printed.splitlines(True)}
    if value is None:
        return
    data: dict[str, Any] = {"text/plain": [repr(value)]}
    if hasattr(value, "_repr_png_"):
        data = {"image/png": base64.b64encode(value._repr_png_()).decode(), **data}
    yield {
        "output_type": "execute_result",
        "execution_count": number,
        "data": data,
        "metadata": {},
    }


if __name__ == "__main__":
    run(Path(sys.argv[1]).resolve())
