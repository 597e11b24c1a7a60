"""One program that is struck a few times, and then left alone until its end."""

from __future__ import annotations

import json
import random
import re
import signal
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from enum import Enum
from pathlib import Path

from datamodules.audit.verdict import audit
from tests.soak.kills import compared
from tests.soak.kills.victims import Victim
from tests.soak.outcomes import CRASH, LIMIT, LOST, SILENT, Row
from tests.soak.programs.moments import Moment, Plan
from tests.soak.programs.started import Programs

KILL = (signal.SIGKILL,)
TWICE = (signal.SIGINT, signal.SIGINT)
STOPS = ((signal.SIGTERM,), (signal.SIGUSR1,), (signal.SIGINT,), TWICE)
IN_A_ROW = 4
"""The most strikes before a program is left alone."""
_ENDED = re.compile("^error: .*(?:was killed|has ended|has died).*", re.MULTILINE)
_REPEATED = 2
"""The most batches that are repeated after a training was asked to stop."""


@dataclass(frozen=True)
class Strike:
    """How one start of a program is struck.

    Attributes:
        signals: What strikes, one right after the other.
        moment: When the program strikes itself; None if the strike comes from outside.
        after: Whether after that moment.
        changes: The number of changes to files after which a strike from outside comes.
        everyone: Whether it strikes all processes of the program.
    """

    signals: tuple[signal.Signals, ...]
    moment: Moment | None
    after: bool
    changes: int
    everyone: bool

    def __str__(self) -> str:
        what = "+".join(each.name for each in self.signals) + " to all" * self.everyone
        if self.moment is None:
            return f"{what} after {self.changes} changes"
        return f"{what} {'after' if self.after else 'at'} {' '.join(map(str, self.moment))}"


class State(Enum):
    """What became of a start: struck as planned; ended with its work done; or all is lost."""

    STRUCK, ENDED, FAILED = range(3)


class Undisturbed:
    """A program that ran to its end: what it wrote, and all moments in which it changed files."""

    def __init__(self, victim: Victim, programs: Programs, folder: Path) -> None:
        self.victim, self.programs, self.folder = victim, programs, folder
        record = folder / "moments"
        plan = Plan(record=str(record)).as_variable()
        self.whole = folder / "whole"
        words, variables = victim.words, {**victim.variables, **plan}
        programs.run(self.whole, *words, **variables)
        assert not list(victim.check(self.whole, self.whole)), "the check itself is wrong"
        lines = record.read_text().splitlines()
        self.changes = len(lines)
        self.kinds: Counter[tuple[str, str]] = Counter()
        for what, file, number in map(json.loads, lines):
            self.kinds[what, file] = max(number, self.kinds[what, file])

    def strikes(
        self, signals: Sequence[tuple[signal.Signals, ...]], rng: random.Random
    ) -> Iterator[Strike]:
        """Endless: two of three at chosen moments, of each kind in turn, the others at random."""
        while True:
            kinds = sorted(self.kinds)
            rng.shuffle(kinds)
            for number, kind in enumerate(kinds):
                # A start that resumes comes to fewer moments than the whole run.
                moment = Moment(*kind, rng.randint(1, 1 + self.kinds[kind] // 3))
                changes, everyone = rng.randint(1, self.changes // 2), rng.random() < 0.5
                yield Strike(rng.choice(signals), moment, rng.random() < 0.5, changes, everyone)
                if number % 2:
                    changes = rng.randint(1, self.changes // 2)
                    yield Strike(rng.choice(signals), None, False, changes, True)


@dataclass
class Struck:
    """A program that is struck in its own folder; what goes wrong is added to a row."""

    undisturbed: Undisturbed
    folder: Path
    row: Row
    came: list[Strike] = field(default_factory=list)  # the strikes that came before its end
    repeated: int = 0  # batches that may be

    def start(self, strike: Strike | None) -> State:
        """Start it, strike it unless it is left alone, and wait until its processes are gone."""
        victim = self.undisturbed.victim
        words = (*victim.words, *(victim.resume if self.came else ()))
        record = self.folder.with_name(f"{self.folder.name}.moments")
        record.unlink(missing_ok=True)
        plan = Plan(str(record))
        if strike is not None and strike.moment is not None:
            plan = Plan(None, strike.moment, strike.after, strike.signals, strike.everyone)
        variables = {**victim.variables, **plan.as_variable()}
        program = self.undisturbed.programs.start(self.folder, *words, **variables)
        if strike is not None and strike.moment is None:

            def has_changed() -> bool:
                return record.exists() and record.read_bytes().count(b"\n") >= strike.changes

            if program.wait_for(has_changed):
                for number in strike.signals:
                    program.signal(number, strike.everyone)
        program.wait()
        left = program.leftovers()
        if program.code is None:
            self._add(LIMIT, f"no end after {strike}")
        elif left:
            self._add(LIMIT, f"{len(left)} processes do not end after {strike}")
        elif "Traceback" in program.said:
            self._add(CRASH, f"after {strike}: {program.said.partition('Traceback')[2]}")
        elif program.code == 0:
            return State.ENDED
        elif strike is None:
            self._add(LOST, f"cannot be resumed: {program.said.strip().splitlines()[-1:]}")
        else:
            self.came.append(strike)
            self.row.tried += 1
            if self._is_as_promised(strike, program.code, program.said):
                return State.STRUCK
        return State.FAILED

    def _is_as_promised(self, strike: Strike, code: int, said: str) -> bool:
        """Whether a program that was struck has ended as it must."""
        first = strike.signals[0]
        if strike.signals == KILL:
            # Else a process was killed that the program has started.
            promised = code == -first or (code == 2 and _ENDED.findall(said) == errors(said))
        elif strike.signals == TWICE and code == -first:
            promised = True
        else:
            self.repeated += _REPEATED
            promised = code == 128 + first and bool(
                re.search(rf"^stopped by {first.name}, .*; resume with: ", said, re.MULTILINE)
            )
        if not promised:
            last = said.strip().splitlines()[-1:]
            self._add(SILENT, f"exit status {code} after {strike}: {last}")
        return promised

    def compare(self) -> None:
        """Look at what it has written after its end."""
        for difference in self.undisturbed.victim.check(self.undisturbed.whole, self.folder):
            self._add(LOST, difference)
        for name in compared.temporary_files(self.folder):
            self._add(LOST, f"left over: {name}")
        is_audited = (self.folder / "audit").exists()
        if is_audited and self.came and all(is_soft(strike) for strike in self.came):
            repeated = sum(epoch.redone for epoch in audit(self.folder / "audit").epochs)
            if repeated > self.repeated:
                self._add(LOST, f"{repeated} batches are repeated")

    def _add(self, outcome: str, detail: str) -> None:
        self.row.add(outcome, f"{detail} [{'; '.join(map(str, self.came))}]")


def errors(said: str) -> list[str]:
    return re.findall(r"^error: .*", said, re.MULTILINE)


def is_soft(strike: Strike) -> bool:
    return strike.signals not in (KILL, TWICE)


def strike_all(
    undisturbed: Undisturbed,
    row: Row,
    signals: Sequence[tuple[signal.Signals, ...]],
    times: int,
    rng: random.Random,
) -> None:
    """Strike programs, one after the other, until so many strikes have come."""
    strikes, came = undisturbed.strikes(signals, rng), list[Strike]()
    ended = 0
    for number in range(3 * times):
        if row.tried >= times:
            break
        name = f"{'kills' if signals == [KILL] else 'stops'}-{number}"
        struck = Struck(undisturbed, undisturbed.folder / name, row)
        state = State.STRUCK
        while state is State.STRUCK:
            alone = len(struck.came) == IN_A_ROW or row.tried >= times
            state = struck.start(None if alone else next(strikes))
        if state is State.ENDED:
            struck.compare()
            ended += 1
        came += struck.came
    if row.tried < times:
        row.add(SILENT, f"only {row.tried} of {times} strikes had any effect")
    kinds = {strike.moment[:2] for strike in came if strike.moment}
    at_random = sum(strike.moment is None for strike in came)
    row.measured = f"{len(kinds)} kinds of moments, {at_random} at random; {ended} ran to their end"
