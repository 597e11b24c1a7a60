"""The testbed, and the curves of runs that nobody disturbed."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.slurm.runs import Workplace, curve
from tests.slurm.testbed import Testbed, why_not


@pytest.fixture(scope="session")
def testbed() -> Iterator[Testbed]:
    """Three nodes; without them all that needs them is skipped."""
    reason = why_not()
    if reason is not None:
        pytest.skip(reason)
    # munged wants a folder that all can enter, which those of pytest are not.
    folder = Path(tempfile.mkdtemp(prefix="slurm-testbed-"))
    folder.chmod(0o755)
    testbed = Testbed(folder)
    try:
        testbed.up()
        yield testbed
    finally:
        testbed.down()


@pytest.fixture
def workplace(tmp_path: Path, testbed: Testbed, shards: Path) -> Workplace:
    return Workplace(tmp_path / "work", testbed, shards)


@pytest.fixture(scope="session")
def undisturbed(
    tmp_path_factory: pytest.TempPathFactory, testbed: Testbed, shards: Path
) -> list[dict[str, str]]:
    """The curve of two ranks."""
    workplace = Workplace(tmp_path_factory.mktemp("undisturbed") / "work", testbed, shards)
    workplace.submit().until_state("COMPLETED")
    return curve(workplace.folder)
