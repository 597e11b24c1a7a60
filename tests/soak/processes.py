"""Stops and kills single processes of trainings: those that read data, and ranks.

The training must end within its limits with one line that names the process and how to resume, and
with an exit status that is not 0; nothing of it may be left, and resumed, it must end as an
undisturbed one does, to the bit.
"""

from __future__ import annotations

import os
import random
import signal
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from tests.soak.kills import compared
from tests.soak.kills.victims import SAVE_OFTEN, victims
from tests.soak.outcomes import CRASH, LIMIT, LOST, SILENT, Row
from tests.soak.programs.started import TRAIN, Program, Programs
from tests.starts import FLAGS, RESUME

MINUTES = 0.1
"""The limit on how long a training waits for a process."""
MARGIN = 60.0
"""Seconds more, until all processes have ended: torch looks after its own every 5 seconds, a rank
has 10 seconds to end by itself, and this machine does other things too."""

_STUCK = "--trainer.callbacks+=tests.slurm.moments.Stuck"
_TORCHRUN = ("-m", "torch.distributed.run", "--standalone")
_SPARES = 8


@dataclass(frozen=True)
class Case:
    """A process of a training, and what happens to it.

    Attributes:
        whose: `data worker` or `rank`.
        rank: The number of the rank.
        how: SIGSTOP or SIGKILL; None if it hangs.
        ranks: How many ranks there are.
        torchrun: Whether torchrun starts the ranks, and not Lightning.
    """

    whose: str
    rank: int
    how: signal.Signals | None
    ranks: int = 2
    torchrun: bool = False

    def __str__(self) -> str:
        how = self.how.name if self.how else "hangs"
        launcher = " under torchrun" * self.torchrun
        return f"{self.whose} of {self.rank + 1}/{self.ranks}{launcher}: {how}"

    @property
    def limit(self) -> float:
        """Seconds until the training must have ended."""
        return MARGIN if self.how == signal.SIGKILL else 60 * MINUTES + MARGIN


def cases() -> Iterator[Case]:
    for how in (signal.SIGSTOP, signal.SIGKILL):
        yield Case("data worker", 0, how, ranks=1)
        yield Case("data worker", 1, how)
    for torchrun in (False, True):
        for rank in (0, 1):
            for how in (signal.SIGSTOP, signal.SIGKILL, None):
                yield Case("rank", rank, how, 2, torchrun)


def run(folder: Path, share: float, seed: int) -> list[Row]:
    rng = random.Random(seed)
    rows = {name: Row(f"{name}s that are stopped, killed, or hang") for name in WHOSE}
    before = {file.name for file in compared.SHARED.iterdir()}
    chosen = [case for case in cases() if share == 1 or rng.random() < share] or [next(cases())]
    longest = dict.fromkeys(WHOSE, 0.0)
    with Programs() as programs:
        packs, *_ = victims(folder)
        programs.run(folder / "packs/whole", *packs.words)
        trainings = Trainings(programs, folder)
        for number, case in enumerate(chosen):
            row = rows[case.whose]
            row.tried += 1
            seconds = attempt(trainings, case, folder / f"{number}", row, rng)
            longest[case.whose] = max(longest[case.whose], seconds)
    for name, row in rows.items():
        row.measured = f"ended within {longest[name]:.0f} s; the limit is {60 * MINUTES:.0f} s"
    for name in compared.shared_memory(before):
        rows["rank"].add(LOST, f"left over in {compared.SHARED}: {name}")
    return list(rows.values())


WHOSE = ("data worker", "rank")


class Trainings:
    """Starts trainings; those that nothing disturbs only once for each number of ranks."""

    def __init__(self, programs: Programs, folder: Path) -> None:
        self._programs, self._folder = programs, folder

    def start(self, folder: Path, ranks: int, *more: str, torchrun: bool = False) -> Program:
        words = [TRAIN, *FLAGS, "--data.root", str(self._folder / "packs/whole/out"), *SAVE_OFTEN]
        words += ["--trainer.log_every_n_steps", "6", "--trainer.max_epochs", "3"]
        words += ["--data.workers", "1", "--timeout_minutes", str(MINUTES), *more]
        words += ["--data.patience", str(MINUTES)]
        if torchrun:
            words = [*_TORCHRUN, "--nproc_per_node", str(ranks), *words]
        else:
            words += ["--trainer.devices", str(ranks)]
        return self._programs.start(folder, *words, spares=_SPARES)

    def undisturbed(self, ranks: int) -> Path:
        """The folder of a training that nothing disturbed."""
        folder = self._folder / f"undisturbed-{ranks}"
        if not folder.exists():
            training = self.start(folder, ranks)
            assert training.wait() == 0, training.said
        return folder


def attempt(trainings: Trainings, case: Case, folder: Path, row: Row, rng: random.Random) -> float:
    """Let a case happen, and resume the training; returns the seconds until all had ended."""
    stuck = (_STUCK, f"--trainer.callbacks.ranks=[{case.rank}]") if case.how is None else ()
    training = trainings.start(folder, case.ranks, *stuck, torchrun=case.torchrun)
    step, victim = rng.randint(1, 9), 0

    def is_time() -> bool:
        if case.how is None:
            return (folder / f"stuck-{case.rank}").exists()
        taken = [file.read_text().count("\n") - 1 for file in folder.glob("audit/*")]
        return len(taken) == case.ranks and min(taken) >= step

    if not training.wait_for(is_time):
        row.add(LOST, f"{case}: it ended before: {training.said[-300:]}")
        return 0.0
    began = time.monotonic()
    victim = training.ranks()[case.rank]
    if case.whose == "data worker":
        victim = training.data_workers(case.rank)[0]
    if case.how is not None:
        os.kill(victim, case.how)
    training.wait(case.limit)
    left = training.leftovers(max(0.0, began + case.limit - time.monotonic()))
    seconds = time.monotonic() - began
    for outcome, detail in faults(case, training.code, training.said, victim):
        row.add(outcome, f"{case}: {detail}")
    if left:
        row.add(LIMIT, f"{case}: {len(left)} processes are left after {seconds:.0f} s")
    again = trainings.start(folder, case.ranks, *RESUME, torchrun=case.torchrun)
    if again.wait() != 0:
        row.add(LOST, f"{case}: cannot be resumed: {again.said[-300:]}")
        return seconds
    for difference in compared.training(trainings.undisturbed(case.ranks), folder):
        row.add(LOST, f"{case}: {difference}")
    for name in compared.temporary_files(folder):
        row.add(LOST, f"{case}: left over: {name}")
    return seconds


def faults(case: Case, code: int | None, said: str, victim: int) -> Iterator[tuple[str, str]]:
    """What is wrong with how a training ended."""
    errors = [line for line in said.splitlines() if line.startswith("error: ")]
    if code is None:
        yield LIMIT, f"no end within {case.limit:.0f} s"
    elif code == 0:
        yield SILENT, "exit status 0"
    ends_with_its_own = case.torchrun and "ChildFailedError" in said
    if said.count("Traceback") > ends_with_its_own:
        yield CRASH, said.strip().splitlines()[-1]
    is_rank = case.whose == "rank"
    named = f"rank {case.rank} " if is_rank else f"{victim}"
    # Of a rank that ends because of its worker, the others say so.
    most, text = 1 if is_rank else case.ranks, " ".join(errors)
    if not 1 <= len(errors) <= most or named not in text or "resume with: " not in text:
        yield SILENT, f"instead of one line with {named!r} and how to resume: {errors}"
