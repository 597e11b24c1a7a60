"""Jobs on a real SLURM that are disturbed in every possible way still train as if undisturbed."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest

from tests.slurm import moments
from tests.slurm.cluster import kill, until
from tests.slurm.jobs import Job, written
from tests.slurm.runs import Workplace, check_as_if_undisturbed, curve

pytestmark = pytest.mark.slurm


def finish(job: Job, starts: int) -> None:
    """Wait for the end of a job that was asked to stop and never failed."""
    job.until_state("COMPLETED")
    assert job.starts == starts
    assert "Traceback" not in job.log.read_text(), job.told()


def test_two_nodes_with_two_tasks_each_resume_after_a_warning(cluster, shards, tmp_path):
    # After its first step, DDP reorders the gradients, and more than two ranks then add them up in
    # another order. With this flag it does not, so the first step after a restart is the same.
    flags = ("--trainer.strategy", "ddp_find_unused_parameters_true")
    whole = Workplace(tmp_path / "whole", cluster, shards)
    whole.submit(*flags, nodes=2, tasks=2).until_state("COMPLETED")
    undisturbed = curve(whole.folder)
    check_as_if_undisturbed(whole.folder, undisturbed)

    work = Workplace(tmp_path / "work", cluster, shards)
    job = work.submit(*flags, nodes=2, tasks=2)
    work.wait_for_step(job, ranks=4, step=3)
    job.warn()
    finish(job, starts=2)
    check_as_if_undisturbed(work.folder, undisturbed, redone=1)


def test_five_requeues_at_the_time_limit_and_by_hand(workplace, undisturbed):
    # SLURM rounds limits up to minutes, and warns up to 60 seconds early.
    job = workplace.submit(sbatch=("--time=2", "--signal=USR1@30"))
    workplace.wait_for_step(job, ranks=2)
    job.freeze()
    first = job.starts  # 2 if the imports took so long that the warning came during them
    job.until_requeued(first)
    job.cluster.run("scontrol", "update", f"JobId={job.number}", "TimeLimit=60")
    for start in range(first + 1, first + 5):
        workplace.wait_for_step(job, ranks=2)
        job.warn()
        job.until_requeued(start)
    finish(job, starts=first + 5)
    check_as_if_undisturbed(workplace.folder, undisturbed, redone=5)


def importing(job: Job) -> bool:
    """Whether both tasks have loaded torch's library, which happens early."""
    tasks = job.tasks().values()
    return len(tasks) == 2 and all(
        "libtorch" in Path(f"/proc/{task}/maps").read_text() for task in tasks
    )


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
    job.until(lambda: len(list(workplace.folder.glob("waiting-*"))) == 2, "the moment")
    job.preempt()
    finish(job, starts=2)
    check_as_if_undisturbed(workplace.folder, undisturbed, redone=1)


def catch_writing_a_checkpoint(workplace: Workplace, job: Job) -> list[int]:
    """Freeze all tasks when rank 0 has written a part of a checkpoint; return them by rank."""
    workplace.wait_for_step(job, ranks=2, step=10)
    writer = job.tasks()[0]
    job.until(lambda: written(writer) > 1_000_000, "a checkpoint")
    os.kill(writer, signal.SIGSTOP)
    assert 1_000_000 < written(writer) < moments.BALLAST
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
    job.cluster.run("scontrol", "requeue", job.number)
    finish(job, starts=2)
    check_as_if_undisturbed(workplace.folder, undisturbed, redone=1)


def test_a_crashed_node(workplace, undisturbed):
    job = workplace.submit()
    workplace.wait_for_step(job, ranks=2, step=20)
    survivor, _ = job.freeze()
    node = job.cluster.nodes[1]
    job.cluster.crash(node)
    kill([survivor], signal.SIGCONT)
    # It moves to the third node. If the second came back too soon, it would end the job once more.
    job.until_state("COMPLETED")
    job.cluster.restore(node)
    assert job.starts == 2
    check_as_if_undisturbed(workplace.folder, undisturbed)


def test_a_rank_killed_between_two_batches(workplace, undisturbed):
    job = workplace.submit()
    workplace.wait_for_step(job, ranks=2, step=20)
    check_resumes_when_submitted_again(workplace, job, job.tasks()[1], undisturbed)


def test_a_rank_killed_during_a_checkpoint_write(workplace, undisturbed):
    job = workplace.submit("--trainer.callbacks+=moments.Ballast")
    writer, other = catch_writing_a_checkpoint(workplace, job)
    kill([other], signal.SIGCONT)
    check_resumes_when_submitted_again(workplace, job, writer, undisturbed)
    left = [path.name for path in (workplace.folder / "runs").rglob(".*.tmp.ckpt")]
    assert left == []


def check_resumes_when_submitted_again(
    workplace: Workplace, job: Job, task: int, undisturbed: list[dict[str, str]]
) -> None:
    """Without one of its tasks a job fails, and SLURM does not requeue it."""
    kill([task], signal.SIGKILL)
    until(lambda: job.state == "FAILED", "the failure", job.told)
    workplace.submit().until_state("COMPLETED")
    check_as_if_undisturbed(workplace.folder, undisturbed)
