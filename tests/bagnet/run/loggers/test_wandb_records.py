"""What a run's folder remembers of W&B, also if somebody has damaged it."""

from __future__ import annotations

import os

import pytest

from bagnet.run.folder import Run
from bagnet.run.loggers.wandb_records import WandbRecords


@pytest.fixture
def run(tmp_path) -> Run:
    return Run("mine", tmp_path)


@pytest.fixture
def old(run) -> WandbRecords:
    """Those of a run that is resumed."""
    return WandbRecords(run, resuming=True)


@pytest.fixture
def new(run) -> WandbRecords:
    """Those of a new run."""
    return WandbRecords(run, resuming=False)


def test_the_wandb_id_lives_as_long_as_the_run(run, old, new):
    first = new.id()
    assert first.startswith("mine-")
    run.folder.mkdir(parents=True)
    new.keep_id(first)
    assert old.id() == first
    assert new.id() != first  # a new run in its place is another one
    old.keep_id("chosen")
    assert old.id() == "chosen"


def test_folders_of_wandb_that_were_not_finished_are_put_aside(run, old, new):
    wandb = run.folder / "wandb"
    run.folder.mkdir(parents=True)
    new.keep_id("mine-0")
    for number in range(1, 5):
        (wandb / f"offline-run-{number}").mkdir(parents=True)
        (wandb / f"offline-run-{number}" / "run-mine-0.wandb").touch()
    (wandb / "offline-run-5").mkdir()
    (wandb / "offline-run-5" / "run-mine-0-other.wandb").touch()  # where runs share a WANDB_DIR
    assert old.last_step() == -1
    old.finish("offline-run-1", 10)
    old.finish("offline-run-3", 30)
    old.put_unfinished_aside(wandb / "offline-run-4", "mine-0")
    kept = [f"offline-run-{number}" for number in (1, 3, 4, 5)]
    assert sorted(path.name for path in wandb.iterdir()) == [*kept, "unfinished-offline-run-2"]
    assert old.last_step() == 30
    old.finish("offline-run-4", -1)  # stopped before it logged anything
    old.keep_id("mine-0")
    assert old.last_step() == 30
    new.keep_id("mine-0")
    assert old.last_step() == -1  # another run's, though of the same id


def test_the_longest_name_makes_the_longest_id_that_wandb_takes():
    assert len(WandbRecords(Run("x" * 119), resuming=False).id()) == 128


@pytest.mark.parametrize("content", [b"", b"\xff\xfe", b"a/b\n", b"a\0b", b"x" * 129, b"two words"])
def test_a_damaged_id_is_put_aside(run, old, content, capsys):
    run.folder.mkdir()
    (run.folder / "wandb-id.txt").write_bytes(content)
    assert old.id().startswith("mine-")
    assert "wandb-id.txt is damaged" in capsys.readouterr().err
    assert (run.folder / "wandb-id.damaged.txt").read_bytes() == content
    old.keep_id("next")
    assert old.id() == "next"


def test_a_damaged_line_is_an_unfinished_folder(run, old):
    run.folder.mkdir()
    file = run.folder / "wandb-finished.txt"
    file.write_bytes(
        b"offline-run-1 10\noffline-run-2 \xff\n\0\noffline-run-3 9x\n12\noffline-run-4 3"
    )
    assert old.last_step() == 10
    old.finish("offline-run-5", 40)
    assert old.last_step() == 40
    damaged = b"\xff\xfe" + file.read_bytes()  # as a text in UTF-16 begins
    file.write_bytes(damaged)
    assert old.last_step() == 40
    file.write_bytes(damaged[2:])
    assert file.read_bytes().endswith(b"offline-run-4 3\noffline-run-5 40\n")


@pytest.mark.parametrize("name", ["wandb-id.txt", "wandb-finished.txt"])
def test_a_pipe_in_place_of_a_record_is_refused_and_not_waited_for(run, old, name):
    run.folder.mkdir()
    os.mkfifo(run.folder / name)
    with pytest.raises(OSError, match="not a plain file"):
        old.id() if name == "wandb-id.txt" else old.last_step()
