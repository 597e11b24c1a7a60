"""An array of three networks, one of which is preempted."""

from __future__ import annotations

import pytest

from tests.slurm.jobs import Job
from tests.slurm.runs import CPU, TINY, Workplace, check_as_if_undisturbed, curve

pytestmark = pytest.mark.slurm
PATCHES = (9, 17, 33)


def sweep(workplace: Workplace) -> list[Job]:
    """Submit the array; two tasks run on the first node and one on the second."""
    lines = [f"bagnet{patch} --patch {patch} --data.audit_dir audit{patch}" for patch in PATCHES]
    (workplace.folder / "list.txt").write_text("\n".join(lines))
    where = ("--nodes=1", "--ntasks-per-node=1", *CPU, "--cpus-per-task=32")
    flags = ("--data.image_size", "40", "--data.resize_size", "44", "--data.workers", "0")
    words = [*TINY, "--data.root", str(workplace.shards), *flags, "--trainer.max_epochs", "4"]
    words += ["--evidence_images", "2"]
    array = workplace.queue(*where, "slurm/sweep.sbatch", "list.txt", *words)
    return [Job(array.cluster, f"{array.number}_{task}", array.folder) for task in range(3)]


def test_one_of_three_networks_is_preempted_and_no_result_shows_it(cluster, shards, tmp_path):
    whole = Workplace(tmp_path / "whole", cluster, shards)
    for job in sweep(whole):
        job.until_state("COMPLETED")

    work = Workplace(tmp_path / "work", cluster, shards)
    jobs = sweep(work)
    work.wait_for_step(jobs[2], ranks=1, step=5, audited="audit33")
    jobs[2].preempt()
    for job, patch in zip(jobs, PATCHES, strict=True):
        job.until_state("COMPLETED")
        undisturbed = curve(whole.folder, f"bagnet{patch}")
        check_as_if_undisturbed(
            work.folder, undisturbed, f"bagnet{patch}", f"audit{patch}", redone=1
        )
    assert [job.starts for job in jobs] == [1, 1, 2]
