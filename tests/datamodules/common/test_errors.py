"""What a user reads of an error of the file system: the path, the cause and what to do."""

from __future__ import annotations

import errno
import os
import warnings

import numpy as np
import pytest
import torch

from datamodules.common.errors import explain, told, too_little_memory, warn_in_one_line


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


@pytest.mark.parametrize(
    ("allocate", "amount"),
    [
        (lambda: torch.empty(1 << 50), " to allocate 4,194,304.0 GiB"),
        (lambda: np.empty(1 << 50), " to allocate 8.00 PiB"),
        (lambda: bytes(1 << 60), ""),
    ],
    ids=["torch", "NumPy", "Python"],
)
def test_an_allocation_that_fails_says_how_much_it_was(allocate, amount):
    with pytest.raises((MemoryError, RuntimeError)) as caught:
        allocate()
    assert too_little_memory(caught.value) == f"this machine has too little memory{amount}"


def test_too_little_memory_of_a_gpu_is_told_apart_and_nothing_else_is_called_so():
    text = "CUDA out of memory. Tried to allocate 2.50 GiB. GPU 0 has a total capacity of 79 GiB"
    error = torch.OutOfMemoryError(text)
    assert too_little_memory(error) == "the GPU has too little memory to allocate 2.50 GiB"
    assert too_little_memory(RuntimeError("sizes do not match")) is None


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
