"""The processes that measure, each on its own device; see `measure.py`."""

from __future__ import annotations

import multiprocessing
import time
import warnings
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass
from itertools import groupby
from multiprocessing.connection import Connection, wait
from operator import itemgetter
from typing import Any, Protocol, cast

import numpy as np
import pyarrow as pa
import torch
from rich.console import Console
from torch import Tensor, nn

from bagnet.experiments.measuring.parts import PartFiles
from bagnet.experiments.measuring.passes import Passes
from bagnet.experiments.options import DataOptions
from bagnet.model.registry import classifier_of
from bagnet.run.signals import STOPPING
from datamodules.common.batch import UNREADABLE, Batch
from datamodules.common.progress import progress
from datamodules.imagenet import ImageNetDataModule
from datamodules.loading.workers import Workers
from datamodules.plan import Ids
from datamodules.processes.children import blocking
from datamodules.processes.forkserver import become_worker

_SECONDS_TO_END = 20.0  # a process that has just begun reports nothing for a while


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
class Job:
    """What all processes have to do.

    Attributes:
        measurement: What to compute.
        data: Data whose validation images are measured.
        options: How these are read.
        parts: The sample ids of each part.
        missing: The numbers of the parts to measure, with the files that they are written to; all
            parts of a model one after the other.
        classes: Class ids that the networks' outputs are put in the order of; None leaves them.
    """

    measurement: Measurement
    data: ImageNetDataModule
    options: DataOptions
    parts: list[Ids]
    missing: list[tuple[PartFiles, int]]
    classes: Sequence[str] | None


def run_job(title: str, job: Job, devices: Sequence[str]) -> None:
    """Measure all missing parts with a process for each device, and show the progress."""
    if not job.missing:
        return
    images = sum(len(job.parts[number]) for _, number in job.missing)
    with progress(Console(stderr=True), title, images) as update:
        done = 0.0

        def add(measured: float) -> None:
            nonlocal done
            done += measured
            update(done)

        if len(devices) == 1:
            work(job, 0, devices, add)
        else:
            with closing(_in_processes(job, devices)) as messages:
                for measured in messages:
                    add(measured)


def slices(ids: Ids, size: int) -> list[Ids]:
    """Cut ids into slices of a size; the last may be smaller."""
    return [ids[first : first + size] for first in range(0, len(ids), size)]


def _in_processes(job: Job, devices: Sequence[str]) -> Generator[float, None, None]:
    """Run `work` in processes; the first failure, or Ctrl-C, ends all of them."""
    context = multiprocessing.get_context("spawn")
    processes, pipes = [], []
    try:
        for rank in range(len(devices)):
            ours, theirs = context.Pipe(duplex=False)
            process = context.Process(target=_process, args=(job, rank, devices, theirs))
            with blocking(STOPPING):  # only this process handles Ctrl-C
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
                    yield message
        for process in processes:
            process.join()  # not killed, as it still removes its decoding processes' semaphores
    finally:
        for pipe in pipes:
            pipe.close()  # which ends a process when it next reports its progress
        deadline = time.monotonic() + _SECONDS_TO_END
        for process in processes:
            process.join(max(0.0, deadline - time.monotonic()))
            process.kill()  # safe, as parts are written atomically; decoding processes follow
            process.join()


def _process(job: Job, rank: int, devices: Sequence[str], pipe: Connection) -> None:
    become_worker()  # end when the main process does
    warnings.simplefilter("ignore")  # the main process has loaded the networks too
    with suppress(BrokenPipeError):  # nobody listens any more
        try:
            work(job, rank, devices, pipe.send)
            pipe.send(None)
        except (ValueError, OSError) as error:
            pipe.send(error)


def work(job: Job, rank: int, devices: Sequence[str], add: Callable[[float], None]) -> None:
    """Measure this process's share of the missing parts; `add` gets the images as they are done.

    The first image of a part is a batch of its own. It tells how many passes through the network an
    image takes, so that the progress of a batch that takes minutes can be shown.
    """
    device = torch.device(devices[rank])
    torch.backends.cudnn.allow_tf32 = False  # it costs the authors' BagNet-33 2.5 points of top-1
    if device.type == "cuda":
        torch.cuda.set_device(device)  # or pinned memory would take some of the first GPU's
    else:
        torch.set_num_threads(max(1, torch.get_num_threads() // len(devices)))
    for files, group in groupby(job.missing[rank :: len(devices)], itemgetter(0)):
        model = files.model.load(device, job.classes)
        parts = {part: _batches(job.parts[part], job.options.batch_size) for _, part in group}
        indices = [(0, ids) for batches in parts.values() for ids in batches]
        with_gpu = device.type == "cuda"
        reader = Workers(job.data.batches("val"), indices, job.options.workers, with_gpu)
        with closing(reader), closing(Passes(model, add)) as passes, _logits(model) as are_finite:
            read = iter(reader)
            for part, batches in parts.items():
                tables = []
                for ids in batches:
                    with passes.batch(len(ids)):
                        tables.append(_rows(job, model, device, next(read)[0]))
                    if not are_finite():
                        raise ValueError(
                            f"{files.model.label}: logits for samples {ids[0]} to {ids[-1]} are "
                            "NaN or infinite, so nothing can be said of its decisions: its "
                            "training diverged, or its weights are damaged"
                        )
                files.write(files.part(part), tables)


@contextmanager
def _logits(model: nn.Module) -> Iterator[Callable[[], bool]]:
    """Watch all logits and votes of a network; yields what says whether they were finite so far."""
    flags: list[Tensor] = []

    def look(module: nn.Module, inputs: Any, outputs: Tensor) -> None:
        finite = outputs.detach().isfinite().all()
        flags[:] = [finite & flags[0] if flags else finite]  # read once a batch: it waits for a GPU

    # Textures are made by the first layers of a network.
    has_classifier = any(isinstance(layer, nn.Linear) for layer in model.modules())
    hook = classifier_of(model).register_forward_hook(look) if has_classifier else None
    try:
        yield lambda: all(bool(flag) for flag in flags)
    finally:
        if hook is not None:
            hook.remove()


def _batches(ids: Ids, size: int) -> list[Ids]:
    """The first id alone, and slices of the others."""
    return [ids[:1], *slices(ids[1:], size)]


def _rows(job: Job, model: nn.Module, device: torch.device, batch: Batch) -> pa.Table:
    """Measure the readable images of a batch."""
    is_read = batch[1] != UNREADABLE
    images, labels, ids = (each[is_read] for each in batch)
    columns: dict[str, Any] = {"sample_id": ids.numpy(), "label": labels.numpy()}
    if len(ids):
        try:
            measured = job.measurement(model, images.to(device), labels.to(device), ids)
        except torch.OutOfMemoryError:
            raise ValueError(
                f"the GPU has too little memory for {job.options.batch_size} images at once: give "
                "a smaller --data.batch_size"
            ) from None
        for name, values in measured.items():
            is_flat = not isinstance(values, np.ndarray) or values.ndim == 1
            columns[name] = values if is_flat else list(values)  # what pyarrow accepts
    return pa.table(columns)
