"""Arrays in files of NumPy: whatever is wrong with one is a ValueError."""

from __future__ import annotations

import numpy as np
import pytest

from datamodules.common.arrays import map_array


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\x93NUMPY\x01\x00\x05\x00((((\n",  # a token that never ends
        b"\x93NUMPY\x01\x00\x89\x13" + b"(" * 5000 + b"\n",  # MemoryError in Python's parser
        b"\x93NUMPY\x01\x00\x02\x00{\n",
        b"\x80\x04.",
    ],
)
def test_what_is_no_array_is_a_value_error(tmp_path, data):
    path = tmp_path / "a.npy"
    path.write_bytes(data)
    with pytest.raises(ValueError, match=r"^a\.npy is no array of NumPy \("):
        map_array(path)


def test_an_array_is_mapped_and_a_missing_file_is_not_called_damaged(tmp_path):
    np.save(tmp_path / "a.npy", np.arange(3))
    assert map_array(tmp_path / "a.npy").tolist() == [0, 1, 2]
    with pytest.raises(FileNotFoundError):
        map_array(tmp_path / "b.npy")
