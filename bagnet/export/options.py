"""The options of the command, which its flags are made from. Imports nothing heavy."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from bagnet.predict.options import NetworkOptions
from datamodules.common.commands import Command


@dataclass(frozen=True, kw_only=True)
class ExportOptions(NetworkOptions):
    """Options of `export`.

    Args:
        out: File to write; for hf, a new folder.
        format: Format of the file.
        evidence: Add a second output, the evidence of all patches (onnx, torch_export).
    """

    out: Path
    format: Literal["safetensors", "onnx", "torch_export", "hf"]
    evidence: bool = False


COMMAND = Command("bagnet.export.command", ExportOptions, ("out",))
