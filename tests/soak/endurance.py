"""Fifty epochs of a training with all that it does: nothing that it holds may grow.

Workers read remote shards through a cache that is smaller than the data. There are validations,
checkpoints, pictures and the table. What all processes hold is sampled in each epoch. The first
epochs fill caches and pools; from then on, no figure may grow by more than its bound in
`sampling.BOUNDS` over all epochs. The audit must find each sample once in each epoch.
"""

from __future__ import annotations

import json
from pathlib import Path

from datamodules.audit.__main__ import main as audit
from tests.datamodules.loaders import write_data
from tests.datamodules.servers import serving
from tests.soak import commands
from tests.soak.outcomes import LIMIT, LOST, Row
from tests.soak.sampling import BOUNDS, growth, own_places

EPOCHS = 50
SETTLED = 10
"""Epochs before what a training holds is compared."""
SECONDS = 900.0
IMAGES = (6,) * 12  # of each shard
CACHED = 6.5 / 12  # of the shards


def run(folder: Path, share: float, seed: int) -> list[Row]:
    epochs = max(3, round(share * EPOCHS))
    row = Row("epochs of one training", epochs)
    samples = folder / "samples.jsonl"
    ended = train(folder, epochs, seed, samples)
    if ended.code != 0:
        row.add(*(ended.fault("") or (LOST, ended.last)))
        return [row]
    if audit([str(folder / "work" / "audit")]) != 0:
        row.add(LOST, "the audit of the samples fails")
    taken = [json.loads(line) for line in samples.read_text().splitlines()]
    judge(row, taken[min(SETTLED, len(taken) // 2) :])
    return [row]


def judge(row: Row, samples: list[dict[str, float]]) -> None:
    """Count each figure that grows."""
    if len(samples) < 5:  # at a small share
        return
    grown = growth(samples)
    for name, bound in BOUNDS.items():
        if grown[name] >= bound:
            row.add(LIMIT, f"{name}: {grown[name]:+.1f} in {len(samples) - 1} epochs")
    row.measured = ", ".join(
        f"{samples[-1][name]:.0f} {name} ({grown[name]:+.1f})" for name in BOUNDS
    )


def train(folder: Path, epochs: int, seed: int, samples: Path) -> commands.Ended:
    work, temporary = folder / "work", folder / "temporary"
    for each in (work, temporary):
        each.mkdir()
    with serving(folder / "served") as server:
        for split, counts in (("train", IMAGES), ("val", (12, 8))):
            write_data(server.root / split, counts)
        sizes = [path.stat().st_size for path in server.root.glob("train/*.tar")]
        command: commands.Command = (
            *("train", "--patch", "9", "--gpus", "0", "--model.width", "4", "--name", "x"),
            *("--data.root", server.url, "--data.image_size", "24", "--data.resize_size", "24"),
            *("--data.batch_size", "12", "--data.workers", "2", "--seed_everything", str(seed)),
            *("--data.streams", "1", "--data.window", "2", "--data.cache_dir", "cache"),
            *("--data.cache_gib", repr(sum(sizes) * CACHED / 2**30), "--data.audit_dir", "audit"),
            *("--evidence_images", "2", "--trainer.enable_progress_bar", "false"),
            *("--trainer.max_epochs", str(epochs), "--trainer.log_every_n_steps", "2"),
            "--trainer.callbacks+=tests.soak.sampling.Sampler",
            *(f"--trainer.callbacks.out={samples}", f"--trainer.callbacks.folder={work}"),
        )
        variables = {"TMPDIR": str(temporary)}
        return commands.run(command, work, own_places, SECONDS, variables)
