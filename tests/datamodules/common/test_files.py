"""Files that appear complete or not at all, and leave nothing behind."""

from __future__ import annotations

import errno
import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from datamodules.common.errors import explain
from datamodules.common.files import link, naming, new_folder, replacing, user_path, write_text

REPOSITORY = Path(__file__).parents[3]
WRITE_HALF = """
import signal, sys
from pathlib import Path
from datamodules.common.files import replacing
with replacing(Path(sys.argv[1])) as temporary:
    temporary.write_text("half")
    print("half", flush=True)
    signal.pause()
"""


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_a_file_is_replaced_when_it_is_whole(tmp_path):
    path = tmp_path / "new" / "table.csv"
    write_text("old", path)
    with replacing(path) as temporary:
        assert (temporary.parent, temporary.suffix) == (path.parent, ".csv")
        temporary.write_text("new")
        assert path.read_text() == "old"
    assert path.read_text() == "new"
    assert names(path.parent) == ["table.csv"]


def test_a_write_that_fails_leaves_the_old_file_alone(tmp_path):
    path = tmp_path / "table.csv"
    write_text("old", path)

    def fail() -> None:
        with replacing(path) as temporary:
            temporary.write_text("half")
            raise RuntimeError("oops")

    with pytest.raises(RuntimeError, match="oops"):
        fail()
    assert path.read_text() == "old"
    assert names(tmp_path) == ["table.csv"]


def test_what_a_killed_process_left_goes_with_the_next_write_and_that_of_a_living_one_stays(
    tmp_path,
):
    path = tmp_path / "model [1].ckpt"
    writing = subprocess.Popen(
        [sys.executable, "-c", WRITE_HALF, str(path)],
        env={**os.environ, "PYTHONPATH": str(REPOSITORY)},
        stdout=subprocess.PIPE,
        text=True,
    )
    assert writing.stdout is not None
    assert writing.stdout.readline() == "half\n"
    write_text("by another process", path)
    assert len(names(tmp_path)) == 2
    writing.send_signal(signal.SIGKILL)
    writing.communicate()
    assert len(names(tmp_path)) == 2
    assert path.read_text() == "by another process"
    write_text("later", path)
    assert names(tmp_path) == [path.name]


def test_a_second_name_is_a_hard_link_or_where_there_are_none_a_copy(tmp_path, monkeypatch):
    old, new = tmp_path / "old.ckpt", tmp_path / "new.ckpt"
    write_text("old", old)
    write_text("new", new)
    link(old, new)
    link(old, new)  # once more, when they are one file already
    assert new.samefile(old)

    def refuse(*arguments) -> None:
        raise OSError(errno.EOPNOTSUPP, "no hard links")

    monkeypatch.setattr(os, "link", refuse)
    link(old, new)
    assert not new.samefile(old)
    assert new.read_text() == "old"
    assert names(tmp_path) == ["new.ckpt", "old.ckpt"]


def test_a_link_that_a_killed_process_left_is_not_written_through(tmp_path):
    """Its number may be ours, as in containers."""
    path, other = tmp_path / "best.ckpt", tmp_path / "last.ckpt"
    write_text("last", other)
    with replacing(path) as temporary:
        leftover = temporary.name
        temporary.write_text("best")
    os.link(other, tmp_path / leftover)
    write_text("new", path)
    assert (path.read_text(), other.read_text()) == ("new", "last")


def test_a_new_folder_appears_with_all_its_files_or_not_at_all(tmp_path):
    path = tmp_path / "above" / "new"

    def fail() -> None:
        with new_folder(path) as folder:
            write_text("half", folder / "a.txt")
            raise KeyError

    with pytest.raises(KeyError):
        fail()
    assert names(path.parent) == []
    path.mkdir()  # an empty one may be there
    with new_folder(path) as folder:
        write_text("whole", folder / "a.txt")
        assert names(path) == []
    assert names(path.parent) == ["new"]
    assert names(path) == ["a.txt"]
    for taken in (path, path / "a.txt"):
        with pytest.raises(ValueError, match="exists, and is no empty"), new_folder(taken):
            pass
    assert names(path) == ["a.txt"]


def test_a_full_disk_that_torch_hides_is_told_with_the_path(tmp_path):
    path = tmp_path / "last.ckpt"

    def save() -> None:
        try:
            raise OSError(errno.ENOSPC, "No space left on device")
        finally:
            raise RuntimeError("[enforce fail at inline_container.cc:671] . unexpected pos")

    def write() -> None:
        with replacing(path):
            save()

    with pytest.raises(OSError, match=re.escape(f"No space left on device: '{path}'")):
        write()
    assert names(tmp_path) == []


def test_paths_are_taken_as_a_shell_takes_them(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", "/home/me")
    monkeypatch.setenv("SCRATCH", "/scratch")
    monkeypatch.delenv("NOWHERE", raising=False)
    for text in ("~/data", "$HOME/data", Path("${HOME}/data")):
        assert user_path(text) == Path("/home/me/data")
    assert user_path("$SCRATCH/~") == Path("/scratch/~")
    with pytest.raises(ValueError, match=r"has the variable \$NOWHERE, which is not set"):
        user_path("$NOWHERE/data")
    literal = tmp_path / "$HOME"
    literal.mkdir()
    assert user_path(literal) == literal


def test_an_error_names_the_file_and_not_its_temporary_name(tmp_path):
    path = tmp_path / "a.bin"
    with pytest.raises(FileNotFoundError) as info, replacing(path) as temporary:
        temporary.open("rb")
    assert info.value.filename == str(path)


def test_an_error_within_two_writes_names_the_outer_file(tmp_path):
    def write() -> None:
        with replacing(path) as outer, replacing(outer) as inner:
            inner.touch()
            inner.unlink()

    path = tmp_path / "a.bin"
    with pytest.raises(FileNotFoundError) as info:
        write()
    assert explain(info.value).startswith(f"{path}: ")


def test_a_disk_that_becomes_read_only_is_told_with_the_path(tmp_path, monkeypatch):
    def refuse(file: Path, **_: object) -> None:
        raise OSError(errno.EROFS, "Read-only file system", str(file))

    def write() -> None:
        with replacing(path) as temporary:
            temporary.touch()
            monkeypatch.setattr(Path, "unlink", refuse)
            refuse(temporary)

    path = tmp_path / "a.bin"
    for _ in range(2):  # in the middle, and from the beginning
        with pytest.raises(OSError, match="Read-only") as info:
            write()
        assert info.value.filename == str(path)


def test_an_error_names_the_new_folder_and_not_its_temporary_name(tmp_path):
    path = tmp_path / "new"
    with pytest.raises(OSError, match="No space") as info, new_folder(path) as folder:
        raise OSError(errno.ENOSPC, "No space left on device", str(folder / "a.bin"))
    assert info.value.filename == str(path)
    assert names(tmp_path) == []


def test_a_line_that_finds_no_room_names_its_file():
    with pytest.raises(OSError, match="No space") as info, naming(Path("/data/starts.jsonl")):
        Path("/dev/full").write_text("line")
    assert info.value.filename == "/data/starts.jsonl"
