"""What a user reads of an error of the file system: the path, the cause and what to do."""

from __future__ import annotations

import errno
import os
import warnings

import pytest

from datamodules.common.errors import explain, told, warn_in_one_line


def raised(action):
    with pytest.raises(OSError, match=r"\[Errno") as caught:
        action()
    return explain(caught.value)


def test_a_file_in_place_of_a_folder_is_named(tmp_path):
    file = tmp_path / "out"
    file.touch()
    message = f"{file}: is a file, and not a folder; give a folder, or move it away"
    assert raised(lambda: (file / "train" / "more").mkdir(parents=True)) == message
    assert raised(lambda: file.mkdir(exist_ok=True)) == message
    assert raised(lambda: (file / "x").write_text("x")) == message


def test_a_folder_in_place_of_a_file_is_named(tmp_path):
    assert raised(lambda: tmp_path.write_text("x")) == f"{tmp_path}: Is a directory; give a file"


@pytest.mark.parametrize(
    ("number", "remedy"),
    [
        (errno.ENOSPC, "; make room and run the same command again"),
        (errno.EDQUOT, "; make room and run the same command again"),
        (errno.EROFS, "; give a place where you may write"),
        (errno.EACCES, "; give a place where you may write"),
        (errno.ENOENT, "; see whether it was removed, or its disk unmounted"),
        (errno.ESTALE, "; see whether it was removed, or its disk unmounted"),
        (errno.EIO, "; see whether its disk is sound"),
        (errno.EBUSY, ""),
    ],
)
def test_other_errors_have_the_path_the_cause_and_a_remedy(number, remedy):
    error = OSError(number, os.strerror(number), "/data/x")
    assert explain(error) == f"/data/x: {os.strerror(number)}{remedy}"
    assert explain(OSError("no number")) == "no number"
    own = OSError(number, "cannot record this; train without it", "/data/x")
    assert explain(own) == "/data/x: cannot record this; train without it"


def test_what_a_user_reads_is_one_line_that_cannot_change_the_terminal():
    message = "https://me:secret@host/a\nb.csv has no \x1b[31mcolumn:\r\n  give one"
    expected = "https://host/a b.csv has no \\x1b[31mcolumn: give one"
    assert told(message) == expected


def test_a_warning_is_one_line_without_its_place_in_the_code(capsys, monkeypatch):
    warn_in_one_line()
    monkeypatch.setattr(warnings, "formatwarning", lambda *_: "as Lightning sets it when imported")
    warnings.warn("two\n lines of https://me:secret@host/x", UserWarning, stacklevel=1)
    assert capsys.readouterr().err == "warning: two lines of https://host/x\n"
    warn_in_one_line(quietly=True)
    warnings.warn("another rank prints this", UserWarning, stacklevel=1)
    assert capsys.readouterr().err == ""
