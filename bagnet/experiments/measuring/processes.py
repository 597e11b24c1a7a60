"""The processes of ``persample.py``: each measures parts on a device of its own."""

from __future__ import annotations

import multiprocessing
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from multiprocessing.connection import Connection, wait
from typing import Any, Protocol, cast

import numpy as np
import pyarrow as pa
import rich.progress
import torch
from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    TextColumn,
    TimeRemainingColumn,
)
from rich.text import Text
from torch import Tensor, nn

from bagnet.experiments.measuring.models import ModelFile
from bagnet.experiments.measuring.parts import PartFiles
from bagnet.run.signals import held_back
from datamodules.common.batch import UNREADABLE
from datamodules.imagenet import ImageNetDataModule
from datamodules.loading.workers import Workers, settle
from datamodules.plan import Ids


class Measurement(Protocol):
    """What is computed for each image. A frozen dataclass: it is pickled, and its repr is the record of its options.

    What it draws at random must come from its options and the sample ids, or the rows would depend on the batches.
    Gradients are on unless it turns them off.
    """

    def __call__(
        self, model: nn.Module, images: Tensor, labels: Tensor, sample_ids: Tensor
    ) -> Mapping[str, Sequence[Any] | np.ndarray]:
        """Columns with B entries each; an entry may be a list of numbers.

        Args:
            model: In evaluation mode, on the device.
            images: uint8 (B, 3, H, W), on the device.
            labels: int64 (B,), on the device; none is of an unreadable image.
            sample_ids: int64 (B,), on the CPU.
        """
        ...


@dataclass(frozen=True)
class Task:
    """The parts that one network still lacks."""

    model: ModelFile
    files: PartFiles
    missing: tuple[int, ...]


@dataclass(frozen=True)
class Job:
    """All that a process needs to know.

    Attributes:
        measurement: What to compute.
        data: Whose validation images are meant.
        ids: The chosen images, int64, ascending.
        tasks: One for each network.
        part_size: Images in a part; part n has those from n * part_size on.
        batch_size: Images at once.
        workers: Processes that decode, for each that measures.
    """

    measurement: Measurement
    data: ImageNetDataModule
    ids: Ids
    tasks: tuple[Task, ...]
    part_size: int
    batch_size: int
    workers: int

    def part(self, number: int) -> Ids:
        """The sample ids of a part."""
        return self.ids[number * self.part_size : (number + 1) * self.part_size]

    def batches(self, number: int) -> list[Ids]:
        """The sample ids of each batch of a part."""
        ids = self.part(number)
        return [ids[i : i + self.batch_size] for i in range(0, len(ids), self.batch_size)]


def run_job(title: str, job: Job, devices: Sequence[str], console: Console) -> None:
    """Measure all missing parts, one process for each device, and show how far it is."""
    missing = sum(len(job.part(number)) for task in job.tasks for number in task.missing)
    total = len(job.tasks) * len(job.ids)
    if not missing:
        return
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn())
    with Progress(*columns, _Speed(), TimeRemainingColumn(), console=console) as progress:
        bar = progress.add_task(title, total=total, completed=total - missing)
        done = partial(progress.advance, bar)
        if len(devices) == 1:
            _work(job, 0, devices, done)
        else:
            _in_processes(job, devices, done)


class _Speed(ProgressColumn):
    """Images per second."""

    def render(self, task: rich.progress.Task) -> Text:
        return Text(f"{task.speed:.1f} images/s" if task.speed else "")


def _in_processes(job: Job, devices: Sequence[str], done: Callable[[float], None]) -> None:
    """Start them all and hear them out; the first that fails, or Ctrl-C, ends all."""
    context = multiprocessing.get_context("spawn")
    processes, pipes = [], []
    try:
        for rank in range(len(devices)):
            ours, theirs = context.Pipe(duplex=False)
            process = context.Process(target=_process, args=(job, rank, devices, theirs))
            with held_back():  # Ctrl-C reaches this process alone
                process.start()
            theirs.close()  # so that the end of the process is the end of the pipe
            processes.append(process)
            pipes.append(ours)
        while pipes:
            for pipe in wait(pipes):
                try:
                    message = cast(Connection, pipe).recv()
                except EOFError:
                    raise ValueError(
                        "a process has died, perhaps for want of memory; the same command resumes "
                        "with what is left (smaller --data.batch_size, --processes or --data.workers need less)"
                    ) from None
                if isinstance(message, Exception):
                    raise message
                if message is None:
                    pipes.remove(cast(Connection, pipe))
                else:
                    done(message)
    finally:
        for process in processes:
            process.kill()  # parts appear whole or not at all, and the decoding ones follow
            process.join()


def _process(job: Job, rank: int, devices: Sequence[str], pipe: Connection) -> None:
    settle()  # end when the main process does
    try:
        _work(job, rank, devices, pipe.send)
        pipe.send(None)
    except (ValueError, OSError) as error:
        pipe.send(error)


def _work(job: Job, rank: int, devices: Sequence[str], done: Callable[[float], None]) -> None:
    """Measure every so many-th of the missing parts of all networks: some may have fewer parts than there are processes."""
    device = torch.device(devices[rank])
    torch.backends.cudnn.allow_tf32 = False  # it costs the authors' BagNet-33 2.5 points of top-1
    if device.type == "cuda":
        torch.cuda.set_device(device)  # or pinning memory would take some of the first GPU's
    else:
        torch.set_num_threads(max(1, torch.get_num_threads() // len(devices)))
    before = 0  # parts of the networks that came earlier
    for task in job.tasks:
        parts = task.missing[(rank - before) % len(devices) :: len(devices)]
        before += len(task.missing)
        if parts:
            model = task.model.load(device, job.data.num_classes)
            with_gpu = device.type == "cuda"
            indices = [(0, ids) for part in parts for ids in job.batches(part)]
            reader = Workers(job.data.batches("val"), indices, job.workers, with_gpu, None)
            batches = iter(reader)
            try:
                for part in parts:
                    tables = []
                    for _ in job.batches(part):
                        (images, labels, sample_ids), _ = next(batches)
                        tables.append(_rows(job, model, device, images, labels, sample_ids))
                        done(len(images))
                    rows = pa.concat_tables(tables, promote_options="permissive")
                    task.files.write(task.files.part(part), rows)
            finally:
                reader.close()


def _rows(
    job: Job, model: nn.Module, device: torch.device, images: Tensor, labels: Tensor, ids: Tensor
) -> pa.Table:
    """Measure a batch, without what could not be read."""
    is_read = labels != UNREADABLE
    images, labels, ids = images[is_read], labels[is_read], ids[is_read]
    columns: dict[str, Any] = {"sample_id": ids.numpy(), "label": labels.numpy()}
    if len(ids):
        try:
            measured = job.measurement(model, images.to(device), labels.to(device), ids)
        except torch.OutOfMemoryError:
            raise ValueError(
                f"the GPU has not enough memory for {job.batch_size} images at once: give a smaller --data.batch_size"
            ) from None
        columns |= {key: _column(values) for key, values in measured.items()}
    return pa.table(columns)


def _column(values: Sequence[Any] | np.ndarray) -> Sequence[Any] | np.ndarray:
    """What pyarrow takes: it wants arrays flat, and lists of them."""
    return list(values) if isinstance(values, np.ndarray) and values.ndim > 1 else values
