"""Jobs of a real SLURM that are disturbed in every way it has, and still train as if nothing had been."""

from __future__ import annotations

import os
import signal
from contextlib import suppress
from pathlib import Path

import pytest

from tests.slurm import moments
from tests.slurm.runs import Workplace, check_as_if_undisturbed, curve
from tests.slurm.testbed import Job, kill, pending, until

pytestmark = pytest.mark.slurm


def warn(job: Job) -> None:
    """Send the warning of the time limit by hand, to all tasks between the same two batches."""
    tasks = job.freeze()
    job.testbed.run("scancel", "--signal=USR1", job.number)
    until(lambda: all(signal.SIGUSR1 in pending(task) for task in tasks), "the signal", job.told)
    kill(tasks, signal.SIGCONT)


def finish(job: Job, starts: int) -> None:
    """Wait for the end of a job that was asked to stop, and never failed."""
    job.until_state("COMPLETED")
    assert job.starts == starts
    assert "Traceback" not in job.log.read_text(), job.told()


def test_two_nodes_with_two_tasks_each_go_on_after_a_warning(testbed, shards, tmp_path):
    # After its first step DDP sorts the gradients anew, and more than two ranks then add them up in another order:
    # with the flag it does not, so that the first step after a restart is the same to the bit.
    flags = ("--trainer.strategy", "ddp_find_unused_parameters_true")
    whole = Workplace(tmp_path / "whole", testbed, shards)
    whole.submit(*flags, nodes=2, tasks=2).until_state("COMPLETED")
    undisturbed = curve(whole.folder)
    check_as_if_undisturbed(whole.folder, undisturbed)

    work = Workplace(tmp_path / "work", testbed, shards)
    job = work.submit(*flags, nodes=2, tasks=2)
    work.wait_for_step(job, ranks=4, step=3)
    warn(job)
    finish(job, starts=2)
    check_as_if_undisturbed(work.folder, undisturbed, redone=1)


def test_five_requeues_at_the_time_limit_and_by_hand(workplace, undisturbed):
    # SLURM rounds limits up to minutes, and warns up to 60 seconds early.
    job = workplace.submit(sbatch=("--time=2", "--signal=USR1@30"))
    workplace.wait_for_step(job, ranks=2)
    job.freeze()
    first = job.starts  # 2, where the imports took so long that the warning came amid them
    job.until_requeued(first)
    job.testbed.run("scontrol", "update", f"JobId={job.number}", "TimeLimit=60")
    for start in range(first + 1, first + 5):
        workplace.wait_for_step(job, ranks=2)
        warn(job)
        job.until_requeued(start)
    finish(job, starts=first + 5)
    check_as_if_undisturbed(workplace.folder, undisturbed, redone=5)


def importing(job: Job) -> bool:
    """Whether both tasks have loaded torch's library, which is early."""
    tasks = job.tasks().values()
    return len(tasks) == 2 and all(
        "libtorch" in Path(f"/proc/{task}/maps").read_text() for task in tasks
    )


def waiting(workplace: Workplace) -> bool:
    return len(list(workplace.folder.glob("waiting-*"))) == 2


def test_preempted_during_the_imports(workplace, undisturbed):
    job = workplace.submit()
    job.until(lambda: importing(job), "the imports")
    job.freeze()
    job.preempt()
    job.until_state("COMPLETED")
    check_as_if_undisturbed(workplace.folder, undisturbed, redone=0)


@pytest.mark.parametrize("moment", ["batch", "validation"])
def test_preempted_during_a_batch_or_a_validation(workplace, undisturbed, moment):
    flags = ("--trainer.callbacks+=moments.WaitForSignal", f"--trainer.callbacks.moment={moment}")
    job = workplace.submit(*flags)
    job.until(lambda: waiting(workplace), "the moment")
    job.preempt()
    finish(job, starts=2)
    check_as_if_undisturbed(workplace.folder, undisturbed, redone=1)


def written(process: int) -> int:
    """The size of the largest file that a process writes."""
    sizes = [0]
    for file in Path(f"/proc/{process}/fd").iterdir():
        with suppress(OSError):  # it has just been closed
            flags = int((file.parent.with_name("fdinfo") / file.name).read_text().split()[3], 8)
            if flags & os.O_ACCMODE != os.O_RDONLY:
                sizes.append(file.stat().st_size)
    return max(sizes)


def catch_writing_a_checkpoint(workplace: Workplace, job: Job) -> list[int]:
    """Freeze the tasks when the first has written a part of a checkpoint, and return them by rank."""
    workplace.wait_for_step(job, ranks=2, step=10)
    writer = job.tasks()[0]
    job.until(lambda: written(writer) > 1_000_000, "a checkpoint")
    os.kill(writer, signal.SIGSTOP)
    assert 1_000_000 < written(writer) < moments.SIZE
    return job.freeze()


def test_preempted_during_a_checkpoint_write(workplace, undisturbed):
    job = workplace.submit("--trainer.callbacks+=moments.Ballast")
    catch_writing_a_checkpoint(workplace, job)
    job.preempt()
    finish(job, starts=2)
    check_as_if_undisturbed(workplace.folder, undisturbed, redone=1)


def test_requeued_by_hand(workplace, undisturbed):
    job = workplace.submit()
    workplace.wait_for_step(job, ranks=2, step=15)
    job.freeze()
    job.testbed.run("scontrol", "requeue", job.number)
    finish(job, starts=2)
    check_as_if_undisturbed(workplace.folder, undisturbed, redone=1)


def test_a_crashed_node(workplace, undisturbed):
    job = workplace.submit()
    workplace.wait_for_step(job, ranks=2, step=20)
    survivor, _ = job.freeze()
    node = f"{job.testbed.prefix}2"
    job.testbed.script("crash", node)
    kill([survivor], signal.SIGCONT)
    job.until_state(
        "COMPLETED"
    )  # on the third node: back within a minute, the second would end it once more
    job.testbed.script("restore", node)
    assert job.starts == 2
    check_as_if_undisturbed(workplace.folder, undisturbed)


def test_a_rank_killed_between_two_batches(workplace, undisturbed):
    job = workplace.submit()
    workplace.wait_for_step(job, ranks=2, step=20)
    check_goes_on_when_submitted_again(workplace, job, job.tasks()[1], undisturbed)


def test_a_rank_killed_during_a_checkpoint_write(workplace, undisturbed):
    job = workplace.submit("--trainer.callbacks+=moments.Ballast")
    writer, other = catch_writing_a_checkpoint(workplace, job)
    kill([other], signal.SIGCONT)
    check_goes_on_when_submitted_again(workplace, job, writer, undisturbed)


def check_goes_on_when_submitted_again(
    workplace: Workplace, job: Job, task: int, undisturbed: list[dict[str, str]]
) -> None:
    """Without one of its tasks a job fails, and SLURM does not queue it again."""
    kill([task], signal.SIGKILL)
    until(lambda: job.state == "FAILED", "the failure", job.told)
    workplace.submit().until_state("COMPLETED")
    check_as_if_undisturbed(workplace.folder, undisturbed)
