"""The fuzzer counts each kind of fault in its column, and finds none in a few of its kinds."""

from __future__ import annotations

import contextlib
import io
import os
import pickle
import signal
import time

import pytest

from tests.soak import fuzz
from tests.soak.fuzz import mutations, planted
from tests.soak.fuzz.child import damaged
from tests.soak.fuzz.kinds import KINDS
from tests.soak.fuzz.pickles import Calls
from tests.soak.fuzz.reading import Kind, Lost, Refused
from tests.soak.outcomes import CRASH, LET_IN, LIMIT, LOST, SILENT, UNWANTED, details

SOME = "wds imagenet-val csv class-names-text manifest audit png starts metrics table config-json"


def run_text(folder, data):
    exec("1")


def start_a_program(folder, data):
    os.system("true")


def unpickle(folder, data):
    pickle.loads(pickle.dumps(Calls(planted.run)))


def write_elsewhere(folder, data):
    os.close(os.open(folder.parent / "elsewhere", os.O_WRONLY | os.O_CREAT))


def remove_elsewhere(folder, data):
    with contextlib.suppress(FileNotFoundError):
        os.remove("/dev/shm/mine")


def remove_what_a_kill_has_left(folder, data):
    with contextlib.suppress(FileNotFoundError):
        os.remove("/dev/shm/sem.mp-is-not-there")


def fill_the_memory(folder, data):
    bytearray(1 << 40)


def hang(folder, data):
    time.sleep(600)


def end_the_process(folder, data):
    os.kill(os.getpid(), signal.SIGSEGV)


def raise_anything(folder, data):
    {}[1]


def refuse_at_length(folder, data):
    raise Refused("error: file.txt is bad\nand more\n")


def refuse_without_name(folder, data):
    raise Refused("error: it is bad\n")


def lose(folder, data):
    raise Lost("a byte")


def refuse(folder, data):
    raise Refused("note: some\nerror: file.txt is bad\n")


def write_and_read(folder, data):
    (folder / "out").mkdir()
    (folder / "out" / "copy").write_bytes(data)
    io.BytesIO(data).read()


def planted_kind(read):
    """The reader, which does what it does with all but the sound file."""

    def attempt(folder):
        if (data := (folder / "file.txt").read_bytes()) != b"sound":
            read(folder, data)

    def write(folder):
        (folder / "file.txt").write_bytes(b"sound")

    return Kind("planted", "file.txt", write, (lambda data, rng: rng.randbytes(9),), attempt)


@pytest.mark.parametrize(
    ("read", "outcome"),
    [
        *((read, LET_IN) for read in (run_text, start_a_program, unpickle, write_elsewhere)),
        (remove_elsewhere, LET_IN),
        *((read, LIMIT) for read in (fill_the_memory, hang)),
        *((read, CRASH) for read in (end_the_process, raise_anything, refuse_at_length)),
        (refuse_without_name, SILENT),
        (lose, LOST),
        (refuse, None),
        (write_and_read, None),
        (remove_what_a_kill_has_left, None),
    ],
)
def test_each_fault_is_counted_in_its_column(tmp_path, read, outcome):
    tried, seconds = (1, 4.0) if read is hang else (2, 60.0)
    kinds = {"it": planted_kind(read)}
    [row] = fuzz.try_kinds(kinds, tmp_path, tried, seed=0, seconds=seconds)
    found = {name: len(row.unwanted.get(name, ())) for name in UNWANTED}
    assert (row.tried, found) == (tried, {name: tried * (name == outcome) for name in UNWANTED})
    for line in details([row]):
        assert "python -m tests.soak.fuzz it 0 0" in line


def test_an_input_can_be_made_again(tmp_path):
    kind = Kind("", "x", print, (mutations.some_bytes, mutations.json_values), print)
    made = [[damaged(kind, "x", seed, n, b'{"a": 1}') for n in range(20)] for seed in (0, 0, 1)]
    assert made[0] == made[1] != made[2]
    assert len(set(made[0])) > 10


def test_a_few_inputs_of_a_few_kinds(tmp_path):
    rows = fuzz.try_kinds({name: KINDS[name] for name in SOME.split()}, tmp_path, 3, seed=0)
    assert details(rows) == []
    assert sum(row.tried for row in rows) == 3 * len(SOME.split())
