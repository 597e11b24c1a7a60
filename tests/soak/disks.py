"""Full, read-only, vanishing and slow disks under every command that writes.

Each command first runs on a good disk. Then a disk that has files already breaks while the command
runs: it must say so in one line that names the file, and end with exit status 2. What was whole
must be so still, nothing half-written or temporary may stay, and the same command must do its work
when the disk is good again. On a slow disk nothing may change. If W&B's folder fails, the training
must not.
"""

from __future__ import annotations

import os
import random
import shutil
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from tests.datamodules.servers import serving
from tests.soak import commands
from tests.soak.commands import Ended
from tests.soak.disk import Disk, a_disk, at_write
from tests.soak.files import Files, damage, differences, files_of
from tests.soak.outcomes import CRASH, LOST, SILENT, Row
from tests.soak.writers import Writer, forget, writers

FULL, READ_ONLY, GONE, SLOW = "full disks", "read-only disks", "vanishing disks", "slow disks"
DELAY = 0.005
"""Seconds that each access to a slow disk takes longer."""


@dataclass
class Good:
    """What a command does on a good disk.

    Args:
        before: The files before it.
        after: The files after it.
        beside: Those of the run, if only a part of them is on the disk.
        grown: Bytes that it added.
        writes: How often it wrote, as `at_write` counts.
    """

    before: Files
    after: Files
    beside: Files
    grown: int
    writes: int


@dataclass
class Case:
    """One disk that breaks in one way.

    Args:
        kind: Name of the row.
        what: How it breaks, for people.
        breaks: Breaks it, in the process of the command.
        names: One of these words must be in the message.
        place: And this path.
        loses: Whether the files that were there are lost with it.
    """

    kind: str
    what: str
    breaks: Callable[[], object]
    names: tuple[str, ...] = ()
    place: str = ""
    loses: bool = False


def run(folder: Path, share: float, seed: int) -> list[Row]:
    rng = random.Random(seed)
    rows = {kind: Row(kind) for kind in (FULL, READ_ONLY, GONE, SLOW)}
    with serving(folder / "served") as server, a_disk(folder / "mount") as disk:
        everything = writers(folder, disk.path, server.url)
        chosen = everything if share > 0.2 else rng.sample(everything, 2)
        for writer in chosen:
            good = on_a_good_disk(writer, disk, folder)
            for case in cases(disk, good, rng, share):
                attempt(writer, disk, good, case, folder, rows[case.kind])
        for row in rows.values():
            row.measured = f"{len(chosen)} commands" + " (limits, hooks)" * (not disk.mounted)
    return list(rows.values())


def cases(disk: Disk, good: Good, rng: random.Random, share: float) -> Iterator[Case]:
    """The ways to break a disk: at once, and at moments that the random numbers choose."""
    place = str(disk.path)
    for part in (0.0, 0.5)[: 1 + (share > 0.2)]:
        room = int(good.grown * (part + rng.uniform(0, 0.5)))
        names = ("No space left", "File too large")
        yield Case(FULL, f"{room:,} bytes left", partial(disk.full, room), names, place)
    names = ("Read-only file system", "cannot be written")
    write = rng.choice((1, rng.randint(1, good.writes)))
    yield Case(READ_ONLY, f"from write {write}", partial(disk.read_only, write), names, place)
    names = ("No such file", "Read-only file system", "is gone", "there is no")
    write = rng.randint(1, good.writes)
    yield Case(GONE, f"removed at write {write}", partial(disk.removed, write), names, place, True)
    if disk.mounted:
        write = rng.randint(1, good.writes)
        yield Case(
            GONE, f"unmounted at write {write}", partial(disk.unmounted, write), names, place
        )
    yield Case(SLOW, f"{DELAY} s for each access", partial(disk.slow, DELAY))


def on_a_good_disk(writer: Writer, disk: Disk, folder: Path) -> Good:
    before, sizes = prepared(writer, disk, folder), _sizes(disk)
    counted = folder / "writes"
    ended = _run(writer, folder, partial(_count_writes, disk.path, counted))
    assert ended.code == 0, ended.said
    grown = sum(size for name, size in _sizes(disk).items() if size != sizes.get(name))
    kept = files_of(folder / "work" / "runs")
    return Good(before, files_of(disk.path), kept, grown, max(1, counted.stat().st_size))


def prepared(writer: Writer, disk: Disk, folder: Path) -> Files:
    """Let the disk have what an earlier command has left, which runs only once."""
    disk.mend()
    disk.empty()
    forget(folder, writer)
    if writer.link is not None:
        writer.link.symlink_to(disk.path)
    kept = folder / "earlier" / writer.what
    if writer.earlier and not kept.exists():
        ended = commands.run(writer.earlier, folder / "work")
        assert ended.code == 0, ended.said
        shutil.copytree(disk.path, kept)
    elif writer.earlier:
        shutil.copytree(kept, disk.path, dirs_exist_ok=True)
    return files_of(disk.path)


def attempt(writer: Writer, disk: Disk, good: Good, case: Case, folder: Path, row: Row) -> None:
    """Break a disk under a command, judge what has come of it, and run it again on a good disk."""
    what = f"{writer.what}, {case.what}"
    prepared(writer, disk, folder)
    row.tried += 1
    ended = _run(writer, folder, case.breaks)
    print(f"{what}: {ended.seconds:.1f} s, {ended.last}", flush=True)
    judge(writer, good, case, ended, files_of(disk.store), files_of(folder / "work" / "runs"), row)
    disk.mend()
    if ended.code == 0 or case.kind == SLOW:
        return
    again = _run(writer, folder)
    if again.code != 0:
        row.add(CRASH, f"{what}, then on a good disk: {again.last}")
    elif not case.loses:
        # A temporary folder that a disk has kept while it was away stays, as after a kill.
        found = files_of(disk.path)
        kept = [name for name in found if ".tmp/" in name and case.kind == GONE]
        for each in differences(good.after, _only(found.keys() - kept, found)):
            row.add(LOST, f"{what}, then on a good disk: {each}")


def judge(
    writer: Writer, good: Good, case: Case, ended: Ended, found: Files, beside: Files, row: Row
) -> None:
    """Count what must not be.

    Args:
        writer: The command.
        good: What it does on a good disk.
        case: What was done to the disk.
        ended: How the command has ended.
        found: What is on the disk.
        beside: What is in the run folder elsewhere.
        row: Where it is counted.
    """
    what = f"{writer.what}, {case.what}"
    if ended.code == 0 and "Traceback" in ended.said:
        row.add(CRASH, f"{what}: exit status 0, but a traceback")
    if ended.code == 0:
        wrong = differences(good.beside, beside)
        if not writer.survives:
            # Nobody can tell what was removed after it was written; what is there must be right.
            known = found.keys() - (good.before.keys() if case.loses else set())
            known |= set() if case.loses else good.after.keys()
            wrong += differences(_only(known, good.after), _only(known, found))
        elif wrong:
            row.add(LOST, f"{what}: {wrong}")
        elif case.kind != SLOW and "W&B has failed" not in ended.said:
            row.add(SILENT, f"{what}: not a word")
        if wrong:
            row.add(SILENT, f"{what}: exit status 0, but {wrong}")
        return
    if fault := ended.fault(*case.names):
        row.add(fault[0], f"{what}: {fault[1]}")
    elif case.place not in ended.errors[0] or ".tmp" in ended.errors[0]:
        row.add(SILENT, f"{what}: without the file: {ended.last}")
    elif writer.survives or case.kind == SLOW:
        row.add(LOST, f"{what}: {ended.last}")
    if not case.loses:
        for each in damage(good.before, good.after, found):
            # Nothing can be removed from such a disk; the next run does.
            if case.kind == FULL or not each.endswith("is left over"):
                row.add(LOST, f"{what}: {each}")


def _only(names: Collection[str], files: Files) -> Files:
    return {name: content for name, content in files.items() if name in names}


def _run(writer: Writer, folder: Path, before: Callable[[], object] | None = None) -> Ended:
    return commands.run(writer.command, folder / "work", before, variables=writer.variables)


def _sizes(disk: Disk) -> dict[str, int]:
    return {str(path): path.stat().st_size for path in disk.path.rglob("*") if path.is_file()}


def _count_writes(folder: Path, counted: Path) -> None:
    """Let a file have one byte for each write below a folder."""
    file = os.open(counted, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_APPEND)
    at_write(folder, 1, lambda: os.write(file, b"."), once=False)
