"""Write results."""

from __future__ import annotations

import os
from pathlib import Path


def save_text(path: Path, text: str) -> None:
    """Write a text, and its folder if need be; the file appears complete or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        unfinished.write_text(text, encoding="utf-8")
        os.replace(unfinished, path)
    finally:
        unfinished.unlink(missing_ok=True)
