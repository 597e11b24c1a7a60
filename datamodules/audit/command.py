"""Checks that each epoch of a training had every sample once.

example:
  python train.py --data.root packed/ --data.audit_dir audit/
  python -m datamodules.audit audit/

Works while the training runs, and after any number of kills and restarts.
Exits with 0 if all is exact, with 1 if not, with 2 if there is nothing to
check.
"""

from __future__ import annotations

from collections.abc import Sequence

from rich.console import Console
from rich.table import Table

from datamodules.audit.options import AuditOptions
from datamodules.audit.verdict import Report, audit
from datamodules.common.progress import progress

PRINTED = 20  # problems on a terminal
_MB = 1_000_000


def run(options: AuditOptions) -> int:
    """Run the command; returns 1 if anything is wrong."""
    console = Console(highlight=False)
    size = sum(path.stat().st_size for path in options.folder.glob("*.jsonl"))
    with progress(Console(stderr=True), "read", size // _MB, "MB") as update:
        report = audit(options.folder, lambda done: update(done // _MB))
    if report.epochs:
        console.print(_table(report))
    limit = PRINTED if console.is_terminal else len(report.problems)
    for problem in report.problems[:limit]:
        console.print(problem, markup=False, soft_wrap=True)
    if len(report.problems) > limit:
        more = len(report.problems) - limit
        console.print(f"and {more:,} more; `| cat` shows all of them", markup=False)
    console.print(_summary(report), soft_wrap=True)
    return 1 if report.problems else 0


def _table(report: Report) -> Table:
    table = Table(box=None, padding=(0, 2, 0, 0), pad_edge=False)
    for name in ("epoch", "steps", "samples", "left out", "unreadable", "redone"):
        table.add_column(name, justify="right")
    table.add_column("ranks")
    table.add_column("verdict", no_wrap=True)
    for epoch in report.epochs:
        table.add_row(
            str(epoch.epoch),
            f"{epoch.steps} of {epoch.length}",
            f"{epoch.samples:,}",
            "" if epoch.left_out is None else f"{epoch.left_out:,}",
            f"{epoch.unreadable:,}",
            f"{epoch.redone:,}",
            _list(epoch.world_sizes),
            epoch.verdict,
        )
    return table


def _summary(report: Report) -> str:
    if not report.world_sizes:
        return report.verdict
    epochs, sizes = len(report.epochs), report.world_sizes
    return (
        f"{epochs} epoch{'s' * (epochs != 1)}, {report.restarts} restart"
        f"{'s' * (report.restarts != 1)}, world size{'s' * (len(sizes) > 1)} {_list(sizes)}: "
        f"{report.verdict}"
    )


def _list(numbers: Sequence[int]) -> str:
    return ", ".join(str(number) for number in numbers)
