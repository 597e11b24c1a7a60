"""Disks break as they should, and what a command does to its files then is counted."""

from __future__ import annotations

import errno
import multiprocessing
from pathlib import Path

import pytest

from tests.soak.commands import Ended
from tests.soak.disk import Disk, a_disk
from tests.soak.disks import FULL, GONE, SLOW, Case, Good, judge
from tests.soak.files import files_of
from tests.soak.outcomes import CRASH, LIMIT, LOST, SILENT, Row
from tests.soak.writers import Writer

WRITER, CLOUD = Writer("x", ("demo",)), Writer("W&B", ("train",), survives=True)
GOOD = Good({"old": b"1", "a.csv": b"1"}, {"old": b"2", "a.csv": b"12", "new": b"3"}, {}, 9, 1)
REFUSED = Ended(2, "error: /disk/new: No space left on device; make room\n", 1.0)
DONE = Ended(0, "done\n", 1.0)


def judged(ended: Ended, found: dict[str, bytes], writer=WRITER, kind=FULL, beside=None) -> Row:
    case = Case(kind, "broken", print, ("No space left",), "/disk", kind == GONE)
    row = Row(kind)
    judge(writer, GOOD, case, ended, found, beside or {}, row)
    return row


@pytest.mark.parametrize(
    ("ended", "found"),
    [
        (REFUSED, GOOD.before),
        (REFUSED, GOOD.after),
        (REFUSED, {"old": b"2", "a.csv": b"1"}),
        (REFUSED, {**GOOD.before, "a.csv": b"12"}),
        (DONE, GOOD.after),
    ],
)
def test_whole_files_are_as_wanted(ended, found):
    assert not judged(ended, found).unwanted


@pytest.mark.parametrize(
    ("ended", "found", "outcome"),
    [
        (REFUSED, {"a.csv": b"1"}, LOST),
        (REFUSED, {**GOOD.before, "old": b"half"}, LOST),
        (REFUSED, {**GOOD.before, "a.csv": b"?"}, LOST),
        (REFUSED, {**GOOD.before, "new": b"half"}, LOST),
        (REFUSED, {**GOOD.before, ".new.tmp": b"3"}, LOST),
        (DONE, {**GOOD.after, "new": b"half"}, SILENT),
        (DONE, GOOD.before, SILENT),
        (Ended(1, "Traceback\nOSError: No space left\n", 1.0), GOOD.before, CRASH),
        (Ended(0, "--- Logging error ---\nTraceback\n", 1.0), GOOD.after, CRASH),
        (Ended(-7, "", 1.0), GOOD.before, CRASH),
        (Ended(None, "", 60.0), GOOD.before, LIMIT),
        (Ended(2, "error: cannot write\n", 1.0), GOOD.before, SILENT),
        (Ended(2, "error: /disk/.a.tmp: No space left\n", 1.0), GOOD.before, SILENT),
        (Ended(2, "error: No space left\n", 1.0), GOOD.before, SILENT),
        (Ended(2, REFUSED.said * 2, 1.0), GOOD.before, SILENT),
    ],
)
def test_what_must_not_be_is_counted(ended, found, outcome):
    assert list(judged(ended, found).unwanted) == [outcome]


def test_what_survives_a_broken_disk_must_say_so_and_do_the_rest():
    told = Ended(0, "W&B has failed (no space); the training continues\n", 1.0)
    assert not judged(told, {}, CLOUD).unwanted
    assert list(judged(DONE, {}, CLOUD).unwanted) == [SILENT]
    assert LOST in judged(told, {}, CLOUD, beside={"last.ckpt": b"0"}).unwanted
    assert list(judged(REFUSED, GOOD.before, CLOUD).unwanted) == [LOST]


def test_a_slow_disk_changes_nothing():
    assert not judged(DONE, GOOD.after, kind=SLOW).unwanted
    assert LOST in judged(REFUSED, GOOD.before, kind=SLOW).unwanted
    assert not judged(REFUSED, {}, kind=GONE).unwanted  # its files are gone with it


def test_a_command_that_goes_on_without_its_old_files_has_done_its_work():
    good = {"kept": b"1", **GOOD.after}
    case = Case(GONE, "removed", print, loses=True)
    for found, unwanted in ((GOOD.after, {}), ({"new": b"half"}, {SILENT})):
        row = Row(GONE)
        before = {**GOOD.before, "kept": b"1"}
        judge(WRITER, Good(before, good, {}, 9, 1), case, DONE, found, {}, row)
        assert set(row.unwanted) == set(unwanted)


def _write(disk: Disk, breaks: tuple, answers) -> None:
    method, *arguments = breaks
    getattr(disk, method)(*arguments)
    try:
        for name in "ab":
            with (disk.path / name).open("wb") as file:
                file.write(bytes(100_000))
        answers.put(0)
    except OSError as error:
        answers.put(error.errno)


@pytest.mark.parametrize(
    ("breaks", "numbers", "left"),
    [
        (("full", 150_000), (errno.ENOSPC, errno.EFBIG), {"a", "b", "old"}),
        (("read_only", 1), (errno.EROFS,), {"old"}),
        (("read_only", 2), (errno.EROFS,), {"a", "old"}),
        (("removed", 2), (0,), {"b"}),
        (("unmounted", 2), (errno.EROFS,), {"a", "old"}),
        (("slow", 0.01), (0,), {"a", "b", "old"}),
    ],
)
def test_a_disk_breaks_and_is_mended(tmp_path: Path, breaks, numbers, left):
    context = multiprocessing.get_context("fork")
    answers = context.SimpleQueue()
    with a_disk(tmp_path / "mount") as disk:
        if not disk.mounted and breaks[0] in ("unmounted", "full"):
            pytest.skip("only root can mount")
        (disk.path / "old").write_text("old")
        process = context.Process(target=_write, args=(disk, breaks, answers))
        process.start()
        assert answers.get() in numbers
        process.join()
        disk.mend()
        assert set(files_of(disk.path)) == left
        (disk.path / "c").write_bytes(bytes(1_000_000))
    assert not (tmp_path / "mount").exists()
