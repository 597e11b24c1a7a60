"""Files of results: damage of any kind is one clear error."""

from __future__ import annotations

import os
import random

import pyarrow as pa
import pytest

from bagnet.experiments.measuring.parts import PartFiles, read_file


def test_any_damaged_byte_is_read_or_refused_in_one_line(tmp_path):
    path = tmp_path / "a.parquet"
    table = pa.table({"sample_id": list(range(50)), "loss": [0.5] * 50})
    PartFiles(tmp_path, "a", {"measurement": "x"}).write(path, [table])
    whole, generator, refusals = path.read_bytes(), random.Random(0), []
    for _ in range(400):
        data = bytearray(whole)
        data[generator.randrange(len(data))] = generator.randrange(256)
        path.write_bytes(data)
        try:
            found = read_file(path)
            # The names of columns have no checksum, and a wrong one is not found.
            assert found.equals(table) or found.column_names != table.column_names
        except ValueError as error:
            refusals.append(str(error))
    assert len(refusals) > 100
    for message in refusals:
        assert message.startswith((f"{path} is damaged (", f"{path} was not written by"))


def test_a_missing_file_is_not_called_damaged(tmp_path):
    with pytest.raises(FileNotFoundError):
        read_file(tmp_path / "none.parquet")


def test_a_pipe_in_place_of_results_is_refused_and_not_waited_for(tmp_path):
    os.mkfifo(tmp_path / "a.parquet")
    with pytest.raises(OSError, match="not a plain file"):
        read_file(tmp_path / "a.parquet")
