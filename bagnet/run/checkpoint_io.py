"""How checkpoints are written: whole, and while the training continues."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from lightning_utilities.core.apply_func import apply_to_collection
from pytorch_lightning.plugins.io import TorchCheckpointIO

from bagnet.model.files import is_dense, read_content
from datamodules.common.files import replacing

Content = Mapping[str, Any]
"""What Lightning collects for a checkpoint."""

_one_at_a_time = threading.Lock()  # two writes of one path would share a temporary file


class AtomicCheckpointIO(TorchCheckpointIO):
    """Writes checkpoints with `replacing`, so that a kill leaves the old one or the new one, whole.

    Lightning's own writes to the system's temporary folder first, which on a cluster is another
    disk, and copies the file from there.

    If `storage_options` of `Trainer.save_checkpoint` is a function, nothing is written: the
    function gets the content instead, on rank 0 only. The next step changes that, so a function
    that keeps it must take a `snapshot`.
    """

    def save_checkpoint(
        self,
        checkpoint: Content,
        path: str | Path,
        storage_options: Callable[[Content], None] | None = None,
    ) -> None:
        if storage_options is not None:
            storage_options(checkpoint)
            return
        with writing(checkpoint, Path(path)):
            pass

    def load_checkpoint(self, path: str | Path, *arguments: Any, **options: Any) -> dict[str, Any]:
        checkpoint = read_content(Path(path))
        try:
            tensors = list(_tensors(checkpoint, "checkpoint"))
        except RecursionError:
            raise ValueError(f"{path} is not a checkpoint of ours: it contains itself") from None
        for name, tensor in tensors:
            if tensor.is_meta or not is_dense(tensor):
                raise ValueError(f"{path} is not a checkpoint of ours: {name} is not stored whole")
        if bad := not_finite(checkpoint):
            raise ValueError(
                f"{path}: {bad} is not finite, so it cannot be trained on; give an earlier "
                "checkpoint (--resume FILE)"
            )
        return checkpoint


@contextmanager
def writing(content: Content, path: Path) -> Iterator[Path]:
    """Write a checkpoint under a temporary name, and give it its own at the end of the context.

    Raises:
        ValueError: A weight or a state of the optimizer is NaN or infinite.
    """
    if bad := not_finite(content):
        raise ValueError(
            f"{path} is not written: after {content.get('global_step')} steps, {bad} is not "
            "finite; lower --model.learning_rate, or clip gradients (--trainer.gradient_clip_val 1)"
        )
    with _one_at_a_time, replacing(path) as temporary:
        with temporary.open("wb") as file:
            torch.save(content, file)
        yield temporary


def not_finite(content: Content) -> str | None:
    """The first tensor with a NaN or an infinity, by its path; callbacks may have such scores."""
    for name, part in content.items():
        for path, tensor in _tensors(part, name) if name != "callbacks" else ():
            if not tensor.isfinite().all():
                return path
    return None


def _tensors(content: Any, path: str) -> Iterator[tuple[str, torch.Tensor]]:
    if isinstance(content, torch.Tensor):
        yield path, content
    elif isinstance(content, Mapping):
        for name, part in content.items():
            yield from _tensors(part, f"{path}.{name}")
    elif isinstance(content, list | tuple):
        for number, part in enumerate(content):
            yield from _tensors(part, f"{path}.{number}")


def snapshot(content: Content) -> Content:
    """Copy a checkpoint's content to the host's memory, where the next step cannot change it."""
    copied: Content = apply_to_collection(
        content, torch.Tensor, lambda tensor: tensor.detach().to("cpu", copy=True)
    )
    return copied


class Background:
    """A thread that does one thing at a time.

    Lightning's `AsyncCheckpointIO` can queue any number of copies, takes them in the GPU's memory,
    and cannot be waited for before the end of the training.
    """

    def __init__(self) -> None:
        self._thread = ThreadPoolExecutor(1)
        self._task: Future[None] | None = None

    def start(self, function: Callable[..., None], *arguments: Any) -> None:
        """Wait for the thread, and give it a function to call."""
        self.finish()
        self._task = self._thread.submit(function, *arguments)

    def finish(self) -> None:
        """Wait for the thread, and raise the error of its function, once."""
        task, self._task = self._task, None
        if task is not None:
            task.result()

    def has_failed(self) -> bool:
        """Whether `finish` would raise an error at once."""
        return self._task is not None and self._task.done() and self._task.exception() is not None
