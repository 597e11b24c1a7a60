"""The processes that measure, each on its own device; see `measure.py`."""

from __future__ import annotations

import multiprocessing
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from typing import Any, Protocol, cast

import numpy as np
import pyarrow as pa
import torch
from rich.console import Console
from torch import Tensor, nn

from bagnet.experiments.measuring.models import ModelFile
from bagnet.experiments.measuring.parts import PartFiles
from bagnet.run.signals import held_back
from datamodules.common.batch import UNREADABLE
from datamodules.common.forkserver import become_worker
from datamodules.common.progress import progress
from datamodules.imagenet import ImageNetDataModule
from datamodules.loading.workers import Workers
from datamodules.plan import Ids


class Measurement(Protocol):
    """What is computed for each image.

    A frozen dataclass: it is pickled, and its repr is stored with the results. Random numbers must
    come from its fields and the sample ids, or the rows would depend on the batches. Gradients are
    on unless it turns them off.
    """

    def __call__(
        self, model: nn.Module, images: Tensor, labels: Tensor, sample_ids: Tensor
    ) -> Mapping[str, Sequence[Any] | np.ndarray]:
        """Measure a batch.

        Args:
            model: The network in evaluation mode, on the device.
            images: uint8 (B, 3, H, W), on the device.
            labels: int64 (B,), on the device; all images are readable.
            sample_ids: int64 (B,), on the CPU.

        Returns:
            Columns with B entries each; an entry may be a list of numbers.
        """
        ...


@dataclass(frozen=True)
class Task:
    """The parts that one model still lacks."""

    model: ModelFile
    files: PartFiles
    missing: tuple[int, ...]


@dataclass(frozen=True)
class Job:
    """Everything that a process needs to know.

    Attributes:
        measurement: What to compute.
        data: Data whose validation images are measured.
        ids: Sample ids of the chosen images, int64, ascending.
        tasks: A task for each model.
        part_size: Images in a part; part n begins with image n * part_size.
        batch_size: Images at once.
        workers: Decoding processes for each process that measures.
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
    """Measure all missing parts with a process for each device, and show the progress."""
    missing = sum(len(job.part(number)) for task in job.tasks for number in task.missing)
    if not missing:
        return
    measured = 0
    with progress(console, title, missing) as update:

        def done(images: int) -> None:
            nonlocal measured
            measured += images
            update(measured)

        if len(devices) == 1:
            _work(job, 0, devices, done)
        else:
            _in_processes(job, devices, done)


def _in_processes(job: Job, devices: Sequence[str], done: Callable[[int], None]) -> None:
    """Run all processes; the first failure, or Ctrl-C, ends all of them."""
    context = multiprocessing.get_context("spawn")
    processes, pipes = [], []
    try:
        for rank in range(len(devices)):
            ours, theirs = context.Pipe(duplex=False)
            process = context.Process(target=_process, args=(job, rank, devices, theirs))
            with held_back():  # only this process handles Ctrl-C
                process.start()
            theirs.close()  # so that the pipe ends with the process
            processes.append(process)
            pipes.append(ours)
        while pipes:
            for pipe in wait(pipes):
                try:
                    message = cast(Connection, pipe).recv()
                except EOFError:
                    raise ValueError(
                        "a process has died, perhaps for lack of memory; the same command resumes "
                        "with what is left (a smaller --data.batch_size, --processes or "
                        "--data.workers needs less)"
                    ) from None
                if isinstance(message, Exception):
                    raise message
                if message is None:
                    pipes.remove(cast(Connection, pipe))
                else:
                    done(message)
        for process in processes:
            process.join()  # not killed, as it still removes its decoding processes' semaphores
    finally:
        for process in processes:
            process.kill()  # safe, as parts are written atomically; decoding processes follow
            process.join()


def _process(job: Job, rank: int, devices: Sequence[str], pipe: Connection) -> None:
    become_worker()  # end when the main process does
    try:
        _work(job, rank, devices, pipe.send)
        pipe.send(None)
    except (ValueError, OSError) as error:
        pipe.send(error)


def _work(job: Job, rank: int, devices: Sequence[str], done: Callable[[int], None]) -> None:
    """Measure this process's share of the missing parts.

    The parts of all models are dealt out in turn, as a model may have fewer parts than there are
    processes.
    """
    device = torch.device(devices[rank])
    torch.backends.cudnn.allow_tf32 = False  # it costs the authors' BagNet-33 2.5 points of top-1
    if device.type == "cuda":
        torch.cuda.set_device(device)  # or pinned memory would take some of the first GPU's
    else:
        torch.set_num_threads(max(1, torch.get_num_threads() // len(devices)))
    before = 0  # missing parts of earlier models
    for task in job.tasks:
        parts = task.missing[(rank - before) % len(devices) :: len(devices)]
        before += len(task.missing)
        if parts:
            model = task.model.load(device, job.data.num_classes)
            with_gpu = device.type == "cuda"
            indices = [(0, ids) for part in parts for ids in job.batches(part)]
            reader = Workers(job.data.batches("val"), indices, job.workers, with_gpu)
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
    """Measure the readable images of a batch."""
    is_read = labels != UNREADABLE
    images, labels, ids = images[is_read], labels[is_read], ids[is_read]
    columns: dict[str, Any] = {"sample_id": ids.numpy(), "label": labels.numpy()}
    if len(ids):
        try:
            measured = job.measurement(model, images.to(device), labels.to(device), ids)
        except torch.OutOfMemoryError:
            raise ValueError(
                f"the GPU has too little memory for {job.batch_size} images at once: give a "
                "smaller --data.batch_size"
            ) from None
        columns |= {key: _column(values) for key, values in measured.items()}
    return pa.table(columns)


def _column(values: Sequence[Any] | np.ndarray) -> Sequence[Any] | np.ndarray:
    """What pyarrow accepts: flat arrays, or lists of them."""
    return list(values) if isinstance(values, np.ndarray) and values.ndim > 1 else values
