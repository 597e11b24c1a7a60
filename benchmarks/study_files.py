"""Collects what `benchmarks/study.sh` has measured into the files that a study's page shows.

    python benchmarks/study_files.py imagenette docs/study
    python benchmarks/study_files.py tiny docs/study/tiny

Copies tables, and figures without photographs, of seed 0. Writes training.csv with the epochs of
all trainings, and, if there are several seeds, seeds.csv: figures of each seed, their mean and
sample standard deviation.
"""

from __future__ import annotations

import argparse
import csv
import shutil
import statistics
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

TABLES = {
    "accuracy": ("table", "calibration"),
    "errors": ("table", "classes"),
    "interactions": ("table", "distance"),
    **dict.fromkeys(("scrambling", "sensitivity", "single_deletion", "deletion"), ("table",)),
    **dict.fromkeys(("aggregation", "words", "localization"), ("table",)),
}
FIGURES = {
    "accuracy": ("figure", "reliability"),
    "interactions": ("figure", "distance"),
    **dict.fromkeys(("errors", "scrambling", "sensitivity", "single_deletion"), ("figure",)),
    **dict.fromkeys(("aggregation", "words"), ("figure",)),
}
NETWORKS = ("bagnet9", "bagnet17", "bagnet33", "vgg11", "resnet50", "densenet169", "bagnet17fast")
EPOCH = {"train_loss": "train/loss", "val_loss": "val/loss", "top1": "val/top1", "top5": "val/top5"}

Rows = list[dict[str, str]]


def main() -> None:
    parser = argparse.ArgumentParser("benchmarks/study_files.py", description=__doc__)
    parser.add_argument("study")
    parser.add_argument("out", type=Path)
    parser.add_argument("--runs", type=Path, default=Path("runs"))
    parser.add_argument("--results", type=Path, default=Path("results"))
    arguments = parser.parse_args()
    arguments.out.mkdir(parents=True, exist_ok=True)
    _copy(arguments.results / f"{arguments.study}-0", arguments.out)
    fast = arguments.results / f"fast-{arguments.study}"
    for name, file in {"fast": "accuracy", "fast-errors": "errors"}.items():
        if (fast / file).exists():
            shutil.copy(fast / file / "table.csv", arguments.out / f"{name}.csv")
    epochs = list(_epochs(arguments.runs, arguments.study))
    if not epochs:
        parser.error(
            f"no run {arguments.study}-NETWORK-SEED in {arguments.runs} has ended an epoch"
        )
    _write(arguments.out / "training.csv", epochs)
    results = sorted(arguments.results.glob(f"{arguments.study}-*"))
    if len(results) > 1:
        _write(arguments.out / "seeds.csv", list(_seeds(results)))


def _copy(results: Path, out: Path) -> None:
    for kinds, suffix in ((TABLES, ".csv"), (FIGURES, ".png")):
        for experiment, names in kinds.items():
            for name in names:
                file = results / experiment / f"{name}{suffix}"
                if file.exists():
                    to = experiment if name in ("table", "figure") else name
                    shutil.copy(file, out / f"{to}{suffix}")


def _epochs(runs: Path, study: str) -> Iterator[dict[str, str]]:
    """The figures of each epoch of each training, by network and seed."""
    for network in NETWORKS:
        for run in sorted(runs.glob(f"{study}-{network}-*")):
            rows = [row for row in _read(run / "metrics.csv") if row.get("val/top1")]
            for row in rows:
                epoch = {"epoch": str(int(row["epoch"]) + 1)}
                values = {name: row[column] for name, column in EPOCH.items()}
                yield {"network": network, "seed": run.name.rpartition("-")[2], **epoch, **values}


def _seeds(results: list[Path]) -> Iterator[dict[str, object]]:
    """The figures that are measured for all seeds."""
    found: dict[tuple[str, str], list[float]] = defaultdict(list)
    for folder in results:
        for row in _read(folder / "accuracy" / "table.csv"):
            found["top-1", row["model"]].append(float(row["top1"]))
            found["top-5", row["model"]].append(float(row["top5"]))
        for row in _read(folder / "scrambling" / "table.csv"):
            if row["same"]:
                found[f"same class, {row['order']}", row["model"]].append(float(row["same"]))
        for row in _read(folder / "errors" / "table.csv"):
            pair = f"{row['first']}, {row['second']}"
            found["error consistency", pair].append(float(row["consistency"]))
    for (figure, network), values in found.items():
        if len(values) == len(results):
            seeds = {f"seed_{number}": value for number, value in enumerate(values)}
            spread = {"mean": statistics.mean(values), "deviation": statistics.stdev(values)}
            yield {"figure": figure, "network": network, **seeds, **spread}


def _read(file: Path) -> Rows:
    with file.open(newline="") as text:
        return list(csv.DictReader(text))


def _write(file: Path, rows: list[dict[str, str]] | list[dict[str, object]]) -> None:
    with file.open("w", newline="") as text:
        writer = csv.DictWriter(text, rows[0], lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)


if __name__ == "__main__":
    main()
