"""Workers start wherever the temporary folder is."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

CODE = """
import tempfile
from datamodules.processes.forkserver import forkserver_context

context = forkserver_context()
queue = context.SimpleQueue()
process = context.Process(target=queue.put, args=([0, 1, 2],))
process.start()
print(queue.get(), tempfile.gettempdir())
process.join()
"""


@pytest.mark.slow  # the server imports torch
@pytest.mark.parametrize("length", [75, 76, 160])
def test_the_path_of_the_temporary_folder_may_be_long(tmp_path, length):
    folder = tmp_path / ("t" * (length - len(os.fsencode(tmp_path)) - 1))
    folder.mkdir()
    assert len(os.fsencode(folder)) == length
    done = subprocess.run(
        [sys.executable, "-c", CODE],
        env={**os.environ, "TMPDIR": str(folder)},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.stdout == f"[0, 1, 2] {folder}\n", done.stderr
    assert not done.stderr
