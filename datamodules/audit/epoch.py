"""Checks one epoch: every step is there, from all ranks of one session, and no sample comes twice.

Then the samples that never came are exactly as many as the plan must leave out, which is less than
one optimiser step takes.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TypeVar

import numpy as np

from datamodules.audit.records import Position, Record, Session
from datamodules.plan import Ids

EXACT, SO_FAR, NOT_EXACT = "exact", "exact so far", "NOT EXACT"

_NAMED = 3  # samples, places or ranks named in a message

_Value = TypeVar("_Value")


@dataclass(frozen=True)
class EpochReport:
    """One epoch, counted from 0."""

    epoch: int
    steps: int  # global batches that came with all their samples from all ranks
    length: int  # global batches in the whole epoch
    samples: int  # different samples that came
    left_out: int | None  # samples that never came; None as long as the epoch is unfinished
    unreadable: int  # samples that came but could not be used
    redone: int  # steps that were trained, lost with a process, and trained again
    world_sizes: tuple[int, ...]  # in the order of the sessions
    verdict: str  # `EXACT`, `SO_FAR` or `NOT_EXACT`


def check(
    epoch: int, records: list[Record], redone: int, lineage: list[Session], problems: list[str]
) -> EpochReport:
    """Check an epoch that is complete, or the last one as far as it goes.

    Args:
        epoch: Its number, counted from 0.
        records: Its records that reached the weights.
        redone: Number of its steps that were lost and trained again.
        lineage: The sessions that the weights come from, in order.
        problems: Gets a line for each thing that is wrong.
    """
    facts, length = lineage[0].facts, lineage[0].length
    found = len(problems)
    expected = _clip(lineage[-1].end, epoch, length)
    beyond = [r.step for r in records if length <= r.step and r[:2] < lineage[-1].end]
    if beyond:
        steps = span("step", min(beyond), max(beyond))
        problems.append(f"epoch {epoch}, {steps}: an epoch has {length} steps")
    # The others are steps that only some ranks have done so far.
    records = [record for record in records if record.step < expected]
    steps_done = 0
    world_sizes: dict[int, None] = {}
    begin = (0, 0)
    for session in lineage:  # each answers for the steps up to its end
        first, end = (_clip(position, epoch, expected) for position in (begin, session.end))
        begin = session.end
        if first < end:
            done, faults = _check_steps(epoch, records, session, first, end, lineage)
            steps_done += done
            problems += faults
            world_sizes[session.world_size] = None
    samples, faults = _check_ids(epoch, records, facts["num_samples"])
    problems += faults
    is_whole = expected == length
    return EpochReport(
        epoch=epoch,
        steps=steps_done,
        length=length,
        samples=samples,
        left_out=facts["num_samples"] - samples if is_whole else None,
        unreadable=sum(record.unreadable for record in records),
        redone=redone,
        world_sizes=tuple(world_sizes),
        verdict=NOT_EXACT if len(problems) > found else EXACT if is_whole else SO_FAR,
    )


def _clip(position: Position, epoch: int, expected: int) -> int:
    """Where a position is among the steps 0 to `expected` of the epoch."""
    if position[0] == epoch:
        return min(position[1], expected)
    return 0 if position[0] < epoch else expected


def _check_steps(
    epoch: int,
    records: list[Record],
    session: Session,
    first: int,
    end: int,
    lineage: list[Session],
) -> tuple[int, list[str]]:
    """Count the good steps in a session's part of an epoch, and say what is wrong elsewhere."""
    global_batch = lineage[0].facts["global_batch"]
    present = np.zeros((end - first, session.world_size), dtype=bool)
    totals = np.zeros(end - first, dtype=np.int64)
    for record in records:
        if first <= record.step < end:
            present[record.step - first, record.rank] = True
            totals[record.step - first] += len(record.ids)
    full = present.all(axis=1)
    good = full & (totals == global_batch)
    absent = np.flatnonzero(~full)
    resumed = {other.begin: other.number for other in lineage}
    faults = []
    for low, high, ranks in _runs(absent, [tuple(row) for row in ~present[absent]]):
        what = f"no record of {name_ranks(np.flatnonzero(ranks))}, session {session.number}"
        if all(ranks):
            after = resumed.get((epoch, first + high + 1))
            what = "no records" if after is None else f"no records, a gap before session {after}"
        faults.append((low, high, what))
    short = np.flatnonzero(full & ~good)
    for low, high, total in _runs(short, totals[short].tolist()):
        what = f"{total} samples in a global batch of {global_batch}, session {session.number}"
        faults.append((low, high, what))
    return int(good.sum()), [
        f"epoch {epoch}, {span('step', first + low, first + high)}: {what}"
        for low, high, what in sorted(faults)
    ]


def _check_ids(epoch: int, records: list[Record], num_samples: int) -> tuple[int, list[str]]:
    """Count the different samples that came, and name what is wrong with some of them."""
    if not records:
        return 0, []
    ids = np.concatenate([record.ids for record in records])
    owners = np.repeat(np.arange(len(records)), [len(record.ids) for record in records])

    def places(sample: int) -> str:
        found = owners[ids == sample]
        first = [records[owner] for owner in found[:_NAMED]]
        named = [f"step {r.step} (session {r.session}, rank {r.rank})" for r in first]
        more = [f"{len(found) - _NAMED} more"] if len(found) > _NAMED else []
        return f"{sample} in {' and '.join(named + more)}"

    def fault(wrong: Ids, what: str) -> str:
        named = "; ".join(places(int(sample)) for sample in wrong[:_NAMED])
        more = f"; and {len(wrong) - _NAMED} more" if len(wrong) > _NAMED else ""
        number = f"{len(wrong)} sample" + "s" * (len(wrong) > 1)
        return f"epoch {epoch}: {number} {what}: {named}{more}"

    faults = []
    outside = (ids < 0) | (ids >= num_samples)
    counts = np.bincount(ids[~outside], minlength=num_samples)
    again = np.flatnonzero(counts > 1)
    if again.size:
        faults.append(fault(again, "more than once"))
    if outside.any():
        faults.append(fault(np.unique(ids[outside]), f"not from 0 to {num_samples - 1}"))
    return int(np.count_nonzero(counts)), faults


def span(name: str, first: int, last: int) -> str:
    """`step 3`, or `steps 3 to 5`."""
    return f"{name} {first}" if first == last else f"{name}s {first} to {last}"


def name_ranks(ranks: Sequence[int] | Ids) -> str:
    """`rank 1`, or `ranks 1, 2`; of many ranks, only the first few."""
    named = ", ".join(str(rank) for rank in ranks[:_NAMED])
    more = f" and {len(ranks) - _NAMED} more" if len(ranks) > _NAMED else ""
    return f"rank{'s' * (len(ranks) > 1)} {named}{more}"


def _runs(steps: Ids, values: Sequence[_Value]) -> Iterator[tuple[int, int, _Value]]:
    """Yield first, last and value of each run of consecutive steps with equal values."""
    begin = 0
    for here in range(1, len(steps) + 1):
        is_same = here < len(steps) and values[here] == values[begin]
        if not is_same or steps[here] != steps[here - 1] + 1:
            yield int(steps[begin]), int(steps[here - 1]), values[begin]
            begin = here
