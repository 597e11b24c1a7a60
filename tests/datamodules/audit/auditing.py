"""Writes records of runs, and changes them."""

import json
import re
from pathlib import Path

from datamodules.audit.__main__ import main
from datamodules.audit.writer import AuditWriter
from datamodules.plan import TrainPlan

COUNTS = (13, 1, 30, 8)
SAMPLES = sum(COUNTS)
BATCH = 6
STEPS = 8  # and 4 samples are left out of each epoch
REPOSITORY = Path(__file__).parents[3]


def facts(**others):
    own = {"num_samples": SAMPLES, "global_batch": BATCH, "accumulate": 1, "seed": 3}
    return {**own, "dataset": "d" * 64, **others}


def train(folder, session, begin, ends, unreadable=(), **others):
    """Record one session: from step `begin` (counted over all epochs) to each rank's end."""
    own = facts(**others)
    length = SAMPLES // (BATCH * own["accumulate"]) * own["accumulate"]
    for rank, end in enumerate(ends):
        writer = AuditWriter(folder, session, rank, len(ends), own)
        for epoch, step in (divmod(place, length) for place in range(begin, end)):
            options = {"seed": own["seed"], "accumulate": own["accumulate"], "streams": 2}
            plan = TrainPlan(COUNTS, epoch=epoch, global_batch=BATCH, **options)
            ids = plan.batch(step, rank, len(ends)).tolist()
            writer.record(epoch, step, ids, [i for i in ids if i in unreadable])
        writer.close()


def file(folder, session, rank):
    return folder / f"{session}-rank{rank:05d}.jsonl"


def edit(folder, session, rank, place, change):
    """Replace the record of a step with what `change` returns; returns its line number."""
    path = file(folder, session, rank)
    header, *lines = path.read_text().splitlines(keepends=True)
    epoch, step = divmod(place, STEPS)
    (number,) = (
        i for i, line in enumerate(lines) if line.startswith(f'{{"epoch":{epoch},"step":{step},')
    )
    changed = change(json.loads(lines[number]))
    if not isinstance(changed, str):
        changed = json.dumps(changed) + "\n"
    lines[number] = changed
    path.write_text(header + "".join(lines))
    return number + 2


def remove(record):
    return ""


def finds(folder, capsys, *patterns):
    """Check that the command prints these and exits with 1; returns all it prints."""
    assert main([str(folder)]) == 1
    out = capsys.readouterr().out
    assert all(re.search(pattern, out) for pattern in patterns), out
    assert out.endswith("NOT EXACT\n")
    return out
