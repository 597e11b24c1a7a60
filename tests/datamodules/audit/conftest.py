"""A run to audit."""

import pytest

from tests.datamodules.audit.auditing import train


@pytest.fixture
def run(tmp_path):
    """Two epochs and 3 steps; killed in step 5 of epoch 1, resumed at its step 2 on 3 ranks."""
    train(tmp_path, 100, 0, (14, 13))
    train(tmp_path, 200, 10, (19, 19, 19))
    return tmp_path
