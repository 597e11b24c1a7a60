"""Batches in memory that is used again: nothing that is still referenced ever changes."""

import errno
import os
import random
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch.utils.data import DataLoader, Dataset

from datamodules.loading.shared_memory import MAX_BUFFERS, SharedBuffers
from tests.datamodules.loaders import contents

REPOSITORY = Path(__file__).parents[3]
SHAPE = (3, 50, 40)


class Numbers(Dataset):
    """Images filled with their number, and the address of their memory in the worker."""

    def __init__(self, shape=SHAPE, length=100):
        self.shape, self.length = shape, length
        self.buffers = None

    def __len__(self):
        return self.length

    def __getitem__(self, number):
        self.buffers = self.buffers or SharedBuffers()
        image = self.buffers.take(self.shape).fill_(number)
        address = self.buffers.hand_over(torch.tensor([image.data_ptr()]))
        return self.buffers.hand_over(image), address


def load(workers=2, dataset=None, **options):
    return DataLoader(
        dataset or Numbers(),
        batch_size=None,
        num_workers=workers,
        multiprocessing_context="forkserver",
        **options,
    )


def test_what_is_kept_does_not_change_and_what_is_dropped_is_used_again():
    draw, kept, addresses = random.Random(0), {}, set()
    for number, (image, address) in enumerate(load()):
        assert image.shape == SHAPE
        assert (image == number).all()
        addresses.add(int(address))
        if draw.random() < 0.2:
            kept[number] = image[1:, ::2].permute(2, 0, 1)  # only a view of it remains
        elif draw.random() < 0.5 and kept:
            del kept[draw.choice(list(kept))]
        for other, view in kept.items():
            assert (view == other).all()
    del image
    assert len(addresses) < 60, "buffers were used again"
    for other, view in kept.items():
        assert (view == other).all()


def test_a_worker_needs_few_buffers_if_nothing_is_kept():
    addresses = {int(address) for _, address in load()}
    assert len(addresses) <= 2 * (2 + 2), "each of two: two prefetched, one in use, one to come"


def test_an_iteration_that_is_left_early_releases_its_batches():
    loader = load(workers=1, persistent_workers=True)
    addresses = set()
    for _ in range(30):
        for number, (image, address) in enumerate(loader):
            assert (image == number).all()
            addresses.add(int(address))
            if number == 2:
                break
    assert len(addresses) <= 5


def test_if_all_buffers_are_kept_batches_arrive_in_new_memory():
    loader = load(1, Numbers((2, 2), MAX_BUFFERS + 20))
    for number, image in enumerate([image for image, _ in loader]):
        assert (image == number).all()


def test_a_buffer_that_is_too_small_is_replaced():
    memory = SharedBuffers()
    small = memory.take((2, 3))
    assert memory.take((2, 3)).data_ptr() == small.data_ptr(), "until it is handed over"
    memory.hand_over(small)
    large = memory.take((4, 3))
    assert large.data_ptr() != small.data_ptr()
    assert memory.take((1, 3)).data_ptr() == large.data_ptr(), "one that is too large will do"
    assert memory.take((5, 3)).data_ptr() != large.data_ptr()
    assert memory.take((0, 3)).shape == (0, 3)


def test_an_error_says_how_much_shared_memory_is_missing(monkeypatch):
    def full(tensor):
        raise RuntimeError("No space left on device (28)")

    monkeypatch.setattr(torch.Tensor, "share_memory_", full)
    with pytest.raises(OSError, match=r"batch of 3 MiB.*No space left.*enlarge /dev/shm") as info:
        SharedBuffers().take((2**20, 3))
    assert info.value.errno == errno.ENOSPC


def arrived(handed_over):
    rebuild, parts = handed_over.__reduce__()
    return rebuild(*parts)


def test_what_is_elsewhere_is_copied_into_a_buffer():
    memory = SharedBuffers()
    values = torch.arange(24, dtype=torch.uint8).view(2, 3, 4)
    for tensor in (values, values.permute(1, 2, 0), values[:0]):
        assert torch.equal(arrived(memory.hand_over(tensor)), tensor)
    numbers = torch.arange(6).view(2, 3).T
    assert torch.equal(arrived(memory.hand_over(numbers)), numbers)


def unpickled(tensor):
    """A new tensor in the same memory."""
    memory, begin = tensor.untyped_storage(), tensor.storage_offset()
    return torch.empty(0, dtype=tensor.dtype).set_(memory, begin, tensor.shape)


@pytest.mark.filterwarnings("error::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.parametrize("inference", [False, True])
def test_memory_is_in_use_as_long_as_anything_refers_to_it(inference):
    memory = SharedBuffers()
    first = memory.take((2, 3))
    rebuild, parts = memory.hand_over(first).__reduce__()
    with torch.inference_mode(inference):  # as in a validation
        received = rebuild(*(unpickled(part) for part in parts))

    def is_free():
        return memory.take((2, 3)).data_ptr() == first.data_ptr()

    assert not is_free()
    for next_one in (
        lambda t: t[1:],
        lambda t: t.detach(),
        lambda t: t.numpy(),
        torch.from_numpy,
        lambda t: t.untyped_storage(),
    ):
        received = next_one(received)
        assert not is_free(), next_one
    del received
    assert is_free()


def test_a_fork_that_drops_its_copy_of_a_batch_frees_nothing():
    memory = SharedBuffers()
    first = memory.take((2, 3))
    received = arrived(memory.hand_over(first))
    child = os.fork()
    if child == 0:
        del received
        os._exit(0)
    assert os.waitpid(child, 0)[1] == 0
    assert memory.take((2, 3)).data_ptr() != first.data_ptr()
    del received
    assert memory.take((2, 3)).data_ptr() == first.data_ptr()


def test_a_training_that_keeps_its_batches_has_all_of_them_at_the_end(train, reference):
    kept = list(train(workers=2))
    assert contents(kept) == reference[0]


@pytest.mark.slow
def test_a_validation_ends_without_a_complaint(shards):
    """Lightning validates in inference mode; what arrives then is released outside of it."""
    script = f"""
from pytorch_lightning import LightningModule, Trainer
from datamodules.imagenet import ImageNetDataModule

class Mean(LightningModule):
    def validation_step(self, batch, _):
        self.log("mean", batch[0].float().mean())

if __name__ == "__main__":
    data = ImageNetDataModule({str(shards)!r}, 8, workers=2, image_size=8, resize_size=9)
    options = {{"logger": False, "enable_progress_bar": False, "enable_checkpointing": False}}
    Trainer(accelerator="cpu", **options).validate(Mean(), data, verbose=False)
"""
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY)}
    run = subprocess.run(
        [sys.executable, "-c", script], env=environment, capture_output=True, text=True
    )
    assert run.returncode == 0, run.stderr
    for complaint in ("Exception", "Error", "leaked"):
        assert complaint not in run.stdout + run.stderr
