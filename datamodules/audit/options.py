"""The options of the command, which its flags are made from. Imports nothing heavy."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class AuditOptions:
    """What to check.

    Args:
        folder: The folder that the training had as --data.audit_dir.
    """

    folder: Path
