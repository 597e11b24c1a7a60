"""Runs that jobs train, and the promises to keep whatever happened to the jobs."""

from __future__ import annotations

import csv
import json
import sys
from collections.abc import Iterator
from pathlib import Path

from wandb.proto import wandb_internal_pb2

from datamodules.audit.verdict import audit
from tests.slurm.cluster import Cluster
from tests.slurm.jobs import Job

REPOSITORY = Path(__file__).parents[2]
TINY = [
    *("--model.width", "4", "--model.learning_rate", "0.3"),
    *("--data.batch_size", "12", "--data.image_size", "24", "--data.resize_size", "28"),
    *("--data.workers", "1"),
    *("--trainer.max_epochs", "10", "--trainer.log_every_n_steps", "5"),
    *("--trainer.enable_progress_bar", "false", "--evidence_images", "0"),
]
RUN = "bagnet9"
CPU = ("--cpus-per-task=1", "--gpus-per-node=0")
LOGGED = ("train/loss_step", "val/top1")
"""Columns in which the table and W&B must agree."""


class Workplace:
    """A folder to submit jobs from, with the project's scripts; the jobs write into it.

    Args:
        folder: Does not exist yet.
        cluster: Runs the jobs.
        shards: The data.
    """

    def __init__(self, folder: Path, cluster: Cluster, shards: Path) -> None:
        self.folder, self.cluster, self.shards = folder, cluster, shards
        self._waited_for: set[Path] = set()  # files of the audit
        (folder / "slurm").mkdir(parents=True)
        for path in [REPOSITORY / "train.py", *(REPOSITORY / "slurm").glob("*[!v]")]:  # no *.env
            (folder / path.relative_to(REPOSITORY)).symlink_to(path)
        (folder / "slurm" / "site.env").write_text(
            f"export BAGNET_PYTHON={sys.executable}\n"
            f"export PYTHONPATH={Path(__file__).parent}\n"  # for moments.py
            "export WANDB_MODE=offline OMP_NUM_THREADS=1\n"
        )

    def submit(
        self, *flags: str, nodes: int = 2, tasks: int = 1, sbatch: tuple[str, ...] = ()
    ) -> Job:
        """Submit a training of `RUN` on so many nodes with so many tasks each."""
        where = [f"--nodes={nodes}", f"--ntasks-per-node={tasks}", *CPU, *sbatch]
        words = [*TINY, "--patch", "9", "--data.audit_dir", "audit", *flags]
        words += ["--data.root", str(self.shards)]
        return self.queue(*where, "slurm/train.sbatch", *words)

    def queue(self, *words: str) -> Job:
        """Call `sbatch`; the job's output must go to a file whose name ends in its number."""
        said = self.cluster.run("sbatch", "--parsable", *words, cwd=self.folder)
        return Job(self.cluster, said.strip(), self.folder)

    def wait_for_step(self, job: Job, ranks: int, step: int = 1, audited: str = "audit") -> None:
        """Wait until all ranks have taken so many batches, in a start not waited for before."""

        def taken() -> bool:
            files = set((self.folder / audited).glob("*.jsonl")) - self._waited_for
            steps = [file.read_text().count("\n") - 1 for file in files]
            if len(steps) == ranks and min(steps) >= step:
                self._waited_for |= files
                return True
            return False

        job.until(taken, f"step {step} of {ranks} ranks")


def curve(folder: Path, run: str = RUN) -> list[dict[str, str]]:
    """The table of a run, without the columns that depend on the clock."""
    with (folder / "runs" / run / "metrics.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    clock = ("throughput/", "memory/")
    return [{k: v for k, v in row.items() if not k.startswith(clock)} for row in rows]


def check_as_if_undisturbed(
    folder: Path,
    undisturbed: list[dict[str, str]],
    run: str = RUN,
    audited: str = "audit",
    redone: int = sys.maxsize,
) -> None:
    """Every epoch is exact, the curve is that of an undisturbed run, and W&B has the same rows.

    Args:
        folder: The jobs were submitted from here.
        undisturbed: The curve to expect.
        run: Name of the run.
        audited: Folder of its audit.
        redone: The most steps that may have been lost and repeated.
    """
    report = audit(folder / audited)
    assert report.problems == []
    assert {epoch.verdict for epoch in report.epochs} == {"exact"}
    assert sum(epoch.redone for epoch in report.epochs) <= redone
    assert curve(folder, run) == undisturbed
    check_wandb(folder / "runs" / run, undisturbed)


def check_wandb(run: Path, rows: list[dict[str, str]]) -> None:
    """The offline files of all starts, in order, are one run in W&B with the rows of the table."""
    files = sorted(run.glob("wandb/offline-run-*/*.wandb"))  # their folders begin with the time
    ids, logged = set(), []
    for file in files:
        for record in records(file):
            if record.HasField("run"):
                ids.add(record.run.run_id)
            if record.HasField("history"):
                items = {
                    item.key or "/".join(item.nested_key): json.loads(item.value_json)
                    for item in record.history.item
                }
                logged.append((record.history.step.num, items))
    steps = [step for step, _ in logged]
    assert len(ids) == 1
    assert steps == sorted(set(steps)), "steps that do not rise"
    assert steps == [int(row["step"]) for row in rows]
    for column in LOGGED:
        table = [(int(row["step"]), float(row[column])) for row in rows if row[column]]
        assert table
        assert [(step, items[column]) for step, items in logged if column in items] == table


def records(file: Path) -> Iterator[wandb_internal_pb2.Record]:
    """Read a file of W&B's offline mode: LevelDB's log format after a header of 7 bytes.

    Like `wandb sync`, this ignores an incomplete record at the end.
    """
    content, begin, block, parts = file.read_bytes(), 7, 32768, b""
    while begin + 7 <= len(content):
        room = block - begin % block
        if room < 7:  # too little for a header
            begin += room
            continue
        length = int.from_bytes(content[begin + 4 : begin + 6], "little")
        kind = content[begin + 6]  # 1 whole, 2 first part, 3 middle, 4 last
        chunk = content[begin + 7 : begin + 7 + length]
        if kind not in (1, 2, 3, 4) or len(chunk) < length:
            return
        parts = chunk if kind in (1, 2) else parts + chunk
        begin += 7 + length
        if kind in (1, 4):
            yield wandb_internal_pb2.Record.FromString(parts)
