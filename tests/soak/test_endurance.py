"""A leak of each kind is noticed, and what does not grow is left alone."""

from __future__ import annotations

import multiprocessing
import os
import tempfile
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.soak.endurance import judge
from tests.soak.outcomes import LIMIT, Row
from tests.soak.sampling import BOUNDS, own_places, sample

SAMPLES = 6
_kept: list[object] = []


def leak_memory(folder: Path) -> None:
    _kept.append(bytearray(os.urandom(1000)) * 8000)


def leak_files(folder: Path) -> None:
    _kept.append((folder / "one").open("wb"))


def leak_threads(folder: Path) -> None:
    threading.Thread(target=threading.Event().wait, daemon=True).start()


def leak_processes(folder: Path) -> None:
    process = multiprocessing.get_context("fork").Process(target=threading.Event().wait)
    process.start()


def leak_shared_memory(folder: Path) -> None:
    Path("/dev/shm", f"bagnet-test-{os.getpid()}-{len(_kept)}").write_bytes(b"")
    _kept.append(1)


def leak_temporary_files(folder: Path) -> None:
    os.close(tempfile.mkstemp()[0])


def leak_files_of_the_run(folder: Path) -> None:
    (folder / str(len(_kept))).touch()
    _kept.append(1)


def take_samples(leak: Callable[[Path], None] | None, folder: Path, answers) -> None:
    """In a session of its own, as a training is."""
    os.setsid()
    (folder / "tmp").mkdir()
    (folder / "run").mkdir()
    os.environ["TMPDIR"] = str(folder / "tmp")
    own_places()
    samples = []
    for _ in range(SAMPLES):
        if leak is not None:
            leak(folder / "run")
        samples.append(sample(folder / "run"))
    for path in Path("/dev/shm").glob(f"bagnet-test-{os.getpid()}-*"):
        path.unlink()
    answers.put(samples)
    for process in multiprocessing.active_children():
        process.kill()


def judged(leak: Callable[[Path], None] | None, folder: Path) -> Row:
    context = multiprocessing.get_context("fork")
    answers = context.SimpleQueue()
    process = context.Process(target=take_samples, args=(leak, folder, answers))
    process.start()
    row = Row("epochs")
    judge(row, answers.get())
    process.join()
    return row


@pytest.mark.parametrize(
    ("leak", "name"),
    list(
        zip(
            (
                *(leak_memory, leak_files, leak_threads, leak_processes, leak_shared_memory),
                *(leak_temporary_files, leak_files_of_the_run),
            ),
            BOUNDS,
            strict=True,
        )
    ),
)
def test_a_leak_of_each_kind_is_counted(leak, name, tmp_path):
    row = judged(leak, tmp_path)
    found = [each.partition(":")[0] for each in row.unwanted[LIMIT]]
    assert name in found
    # A process has files, threads and memory, too; the others leak only one thing.
    assert found == [name] or leak is leak_processes


def test_without_a_leak_nothing_is_counted(tmp_path):
    row = judged(None, tmp_path)
    assert not row.unwanted
    assert "1 processes (+0.0)" in row.measured


def test_single_samples_do_not_matter():
    samples = [dict.fromkeys(BOUNDS, 5.0) for _ in range(SAMPLES)]
    samples[2] = dict.fromkeys(BOUNDS, 900.0)
    row = Row("epochs")
    judge(row, samples)
    assert not row.unwanted
