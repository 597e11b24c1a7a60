"""What a part of the soak reports: rows of a table that counts what must not happen."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

#: What must not happen, and the column that counts it.
CRASH = "traceback or crash"  # instead of one line that names the cause
LIMIT = "too long or too large"  # beyond the stated bound on time or memory
LET_IN = "let in"  # code from a file ran, or something outside its folder was written
LOST = "lost or changed"  # weights, samples, rows or files that were whole
SILENT = "not reported"  # it ended as if all were well, or without naming what is wrong
UNWANTED = (CRASH, LIMIT, LET_IN, LOST, SILENT)


@dataclass
class Row:
    """One line of the table.

    Args:
        what: What was tried, in a few words.
        tried: How many times.
        measured: What was measured meanwhile, with units, or nothing.
        unwanted: For each outcome that must not happen (one of `UNWANTED`): what exactly.
    """

    what: str
    tried: int = 0
    measured: str = ""
    unwanted: dict[str, list[str]] = field(default_factory=dict)

    def add(self, outcome: str, detail: str) -> None:
        assert outcome in UNWANTED, outcome
        self.unwanted.setdefault(outcome, []).append(detail)

    def as_json(self) -> dict[str, Any]:
        return asdict(self)


def table(rows: Sequence[Row]) -> str:
    """The rows as Markdown."""
    head = ("what was tried", "times", *UNWANTED, "measured")
    lines = [_line(head), _line(["---", *["---:"] * (1 + len(UNWANTED)), "---"])]
    for row in rows:
        counts = [len(row.unwanted.get(outcome, ())) for outcome in UNWANTED]
        lines.append(_line([row.what, f"{row.tried:,}", *map(str, counts), row.measured]))
    return "\n".join(lines)


def details(rows: Sequence[Row]) -> list[str]:
    """What must not happen and did, the same things together, the most frequent first."""
    found = Counter(
        (row.what, outcome, detail)
        for row in rows
        for outcome, of_kind in row.unwanted.items()
        for detail in of_kind
    )
    return [
        f"{what}: {outcome}: {detail}" + (f" ({times} times)" if times > 1 else "")
        for (what, outcome, detail), times in found.most_common()
    ]


def _line(cells: Sequence[str]) -> str:
    return "| " + " | ".join(cells) + " |"
