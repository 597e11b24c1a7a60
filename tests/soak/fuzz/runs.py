"""Kinds of files that a run has: settings, starts, tables, what W&B has."""

from __future__ import annotations

import csv
from functools import partial
from pathlib import Path
from typing import Any

import bagnet.experiments.report
import bagnet.run.lease
from bagnet.export.folder import _settings
from bagnet.run.folder import Run
from bagnet.run.lease import Lease, latest_start
from bagnet.run.loggers.csv_table import CSVTable
from bagnet.run.loggers.wandb_records import WandbRecords
from bagnet.training.command_line.cli import BagNetCLI
from tests.soak.fuzz import mutations, weights
from tests.soak.fuzz.reading import Kind, Lost, Refused

_METRICS = (
    "step,epoch,train/loss,val/top1\r\n1,0,2.5,\r\n2,0,2.25,0.5\r\n3,1,1e-3,\r\n4,1,,0.75\r\n"
)
_SETTINGS = """\
seed_everything: 1
trainer: {max_epochs: 1, precision: 32-true, callbacks: []}
model: &network
  name: bagnet9
  learning_rate: 1e-3
  weight_decay: 0.1
data:
  root: /data
  batch_size: 8
  train_sizes: {0: 128, 6: 160}
"""
_YAML = (
    "a: &a [x, x, x, x, x, x, x, x]\nb: &b [*a, *a, *a, *a, *a, *a]\nc: &c [*b, *b, *b, *b, *b]\n"
    "d: &d [*c, *c, *c, *c, *c, *c]\ne: &e [*d, *d, *d, *d, *d, *d]\nf: [*e, *e, *e, *e, *e, *e]\n",
    *("a: &a {b: *a}\n", "a: &a [*a]\n", "<<: {model: {name: x}}\n", "model: *network\n", "{\n"),
    *("? [a, b]\n: c\n", "a: !!binary x\n", "model: !!set {a, b}\n", "trainer: 2001-99-99\n"),
    "data: !!python/object/apply:os.system ['true']\n",
    *("model: !!python/name:os.system\n", "data: !!python/module:antigravity\n", "%YAML 9\n"),
    *("trainer: !!timestamp 2001-99-99\n", "model: {learning_rate: 1_000:59:59}\n", "\t- x\n"),
    *("trainer: {max_epochs: .inf}\n", "data: {batch_size: 0x7fffffffffffffffffff}\n"),
    *("trainer: {max_epochs: .nan}\n", "a: " + "[" * 3000 + "\n", "data: {allow_pipe: true}\n"),
    "trainer: {callbacks: {class_path: os.system, init_args: {command: 'true'}}}\n",
    "trainer: {logger: {class_path: subprocess.Popen, init_args: {args: 'true'}}}\n",
    "trainer: {callbacks: [{class_path: tests.soak.fuzz.planted.run}]}\n",
    *("data: {root: 'pipe:touch x'}\n", "--- a\n--- b\n", "key\u0085: \u2028\n"),
    "data: {augment: [{class_path: builtins.exec, init_args: {source: 'import antigravity'}}]}\n",
    *("model: {name: !!python/tuple [1]}\n", "data: {root: [" + "a, " * 120_000 + "]}\n"),
)


def yaml_lines(data: bytes, rng: Any) -> bytes:
    """Add, remove, repeat and replace lines of YAML."""
    lines = data.decode().splitlines(keepends=True)
    for _ in range(rng.choice((1, 1, 2))):
        at = rng.randrange(len(lines))
        odd = rng.choice(
            (
                rng.choice(_YAML),
                f"{rng.choice(('data', 'model', 'x'))}: {mutations.odd_value(rng)!r}\n",
            )
        )
        kind = rng.randrange(5)
        if kind == 0:
            lines[at : at + 1] = []
        elif kind == 1:
            lines.insert(rng.randrange(len(lines)), lines[at])
        elif kind == 2:
            name, colon, _ = lines[at].partition(": ")
            lines[at] = f"{name}{colon}{mutations.odd_value(rng)}\n"
        else:
            lines.insert(at, odd)
        lines = lines or ["\n"]
    return "".join(lines).encode("utf-8", "surrogatepass")


class _Parsed(Exception):
    """The settings are read, which is all that is wanted."""


def _parse(folder: Path) -> None:
    def stop(self: BagNetCLI) -> None:
        raise _Parsed

    before, BagNetCLI.before_instantiate_classes = BagNetCLI.before_instantiate_classes, stop
    try:
        with weights.parsed_once():
            code, text = weights.train(
                folder, "--config", str(folder / "settings.yaml"), "--name", "a"
            )
    except _Parsed:
        return
    finally:
        BagNetCLI.before_instantiate_classes = before
    raise Refused(text) if code == 2 else AssertionError(code)


def write_file(name: str, text: str, folder: Path) -> None:
    (folder / name).parent.mkdir(parents=True, exist_ok=True)
    (folder / name).write_bytes(text.encode())


def _run_files(folder: Path) -> None:
    write_file("runs/a/config.yaml", _SETTINGS, folder)


def _read_config(folder: Path) -> None:
    _settings(Run("a", folder / "runs"))


def _starts(folder: Path) -> None:
    bagnet.run.lease.git_commit = lambda: "0" * 40  # without a process
    lease = Lease(folder / "runs/a/starts.jsonl")
    lease.acquire()
    lease.acquire()


def _read_starts(folder: Path) -> None:
    path = folder / "runs/a/starts.jsonl"
    bagnet.run.lease.git_commit = lambda: "0" * 40
    before, lease = latest_start(path), Lease(path)
    lease.explain_loss()
    lease.acquire()
    if not lease.is_held() or latest_start(path).get("token") == before.get("token"):
        raise Lost("a start that has just acquired the lease does not hold it")
    Lease(path).acquire()
    if lease.is_held():
        raise Lost("two starts hold the lease")
    lease.explain_loss()


def _read_metrics(folder: Path) -> None:
    """Resume a run at step 4: rows before it that are as they were must stay."""
    path = folder / "runs/a/metrics.csv"
    head, *lines = path.read_bytes().split(b"\r\n")[:-1] or [b""]  # the last one may be torn
    table = CSVTable(path, Lease(folder / "runs/a/starts.jsonl"))
    table.log_metrics({"train/loss": 1.0, "new": 2.0}, step=4)
    rows = table.between(-1, 1 << 60)
    sound = _METRICS.encode().split(b"\r\n")
    if head == sound[0]:
        kept = {row["step"] for row in rows}
        if missing := [
            line for line in sound[1:4] if line in lines and float(line[:1]) not in kept
        ]:
            raise Lost(f"the row {missing[0].decode()} is lost")
    if rows[-1] != {"step": 4.0, "train/loss": 1.0, "new": 2.0}:
        raise Lost("the new row is not there")
    with path.open(newline="") as file:
        list(csv.DictReader(file))


def _read_wandb(folder: Path) -> None:
    records = WandbRecords(Run("a", folder / "runs"), True)
    records.id()
    records.last_step()
    records.put_unfinished_aside(folder / "runs/a/wandb/offline-run-3", records.id())
    records.keep_id("new")
    records.finish("offline-run-9", 30)
    if records.last_step() < 30 or records.id() != "new":  # a damaged number may be larger
        raise Lost("what was just noted is not there")


def _kinds() -> dict[str, Kind]:
    settings, own = "settings in YAML", "files of a run"
    lines = (yaml_lines, yaml_lines, mutations.some_bytes)
    commas = (mutations.fields(","), mutations.some_bytes)
    words = (mutations.fields(" "), mutations.some_bytes)
    json_lines = (mutations.json_lines, mutations.json_lines, mutations.some_bytes)
    return {
        "settings": Kind(
            settings,
            "settings.yaml",
            partial(write_file, "settings.yaml", _SETTINGS),
            lines,
            _parse,
            ("--",),
        ),
        "run-settings": Kind(settings, "runs/a/config.yaml", _run_files, lines, _read_config),
        "starts": Kind(own, "runs/a/starts.jsonl", _starts, json_lines, _read_starts),
        "metrics": Kind(
            own,
            "runs/a/metrics.csv",
            partial(write_file, "runs/a/metrics.csv", _METRICS),
            commas,
            _read_metrics,
        ),
        "wandb-id": Kind(
            own,
            "runs/a/wandb-id.txt",
            partial(write_file, "runs/a/wandb-id.txt", "mine-0a1b2c3d\n"),
            words,
            _read_wandb,
        ),
        "wandb-finished": Kind(
            own,
            "runs/a/wandb-finished.txt",
            partial(
                write_file, "runs/a/wandb-finished.txt", "offline-run-1 10\noffline-run-2 20\n"
            ),
            words,
            _read_wandb,
        ),
    }


KINDS = _kinds()
