"""The cluster, a folder to submit jobs from, and the curve of an undisturbed run."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.slurm.cluster import Cluster, install, why_not
from tests.slurm.runs import Workplace, curve


@pytest.fixture(scope="session")
def cluster() -> Iterator[Cluster]:
    """Three nodes; all tests that need them are skipped on a machine that cannot have them."""
    reason = why_not() or install()
    if reason is not None:
        pytest.skip(reason)
    # munged wants a folder that all users may enter, unlike pytest's.
    folder = Path(tempfile.mkdtemp(prefix="slurm-cluster-"))
    folder.chmod(0o755)
    cluster = Cluster(folder)
    try:
        cluster.up()
        yield cluster
    finally:
        cluster.down()


@pytest.fixture
def workplace(tmp_path: Path, cluster: Cluster, shards: Path) -> Iterator[Workplace]:
    """A folder whose jobs end with the test, also if it failed and they would run for hours."""
    yield Workplace(tmp_path / "work", cluster, shards)
    cluster.run("scancel", "--user=root")


@pytest.fixture(scope="session")
def undisturbed(
    tmp_path_factory: pytest.TempPathFactory, cluster: Cluster, shards: Path
) -> list[dict[str, str]]:
    """The curve of two ranks that nothing disturbed."""
    workplace = Workplace(tmp_path_factory.mktemp("undisturbed") / "work", cluster, shards)
    workplace.submit().until_state("COMPLETED")
    return curve(workplace.folder)
