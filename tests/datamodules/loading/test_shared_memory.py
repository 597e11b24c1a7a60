"""Batches in memory that is used again: what somebody still looks at never changes."""

import errno
import os
import random

import pytest
import torch
from torch.utils.data import DataLoader, Dataset

from datamodules.loading import shared_memory as slots
from datamodules.loading.shared_memory import Slots
from tests.datamodules.loaders import contents

SHAPE = (3, 50, 40)


class Numbers(Dataset):
    """Images filled with their number, the number itself, and where the worker has them."""

    def __init__(self, shape=SHAPE):
        self.shape = shape
        self.slots = None

    def __len__(self):
        return 100

    def __getitem__(self, number):
        self.slots = self.slots or Slots()
        image = self.slots.take(self.shape).fill_(number)
        place = self.slots.hand_over(torch.tensor([image.data_ptr()]))
        return self.slots.hand_over(image), place


@pytest.fixture(params=["fork", "forkserver", "spawn"])
def loader(request):
    # Numbers up to 99, and workers of several kinds.
    return DataLoader(
        Numbers(), batch_size=None, num_workers=2, multiprocessing_context=request.param
    )


def test_what_is_kept_stays_as_it_was_and_what_is_dropped_is_used_again(loader):
    draw, kept, places = random.Random(0), {}, set()
    for number, (image, place) in enumerate(loader):
        assert image.shape == SHAPE
        assert (image == number).all()
        places.add(int(place))
        if draw.random() < 0.2:
            kept[number] = image[1:, ::2].permute(2, 0, 1)  # a view is all that remains of it
        elif draw.random() < 0.5 and kept:
            del kept[draw.choice(list(kept))]
        for other, view in kept.items():
            assert (view == other).all()
    del image
    assert len(places) < 60, "slots were used again"
    for other, view in kept.items():
        assert (view == other).all()


def test_a_worker_needs_few_slots_where_nothing_is_kept(loader):
    places = {int(place) for _, place in loader}
    assert len(places) <= 2 * (2 + 2), "two read ahead by each of two, one in use and one to come"


def test_an_iteration_that_is_left_gives_its_batches_back():
    options = {"batch_size": None, "num_workers": 1, "multiprocessing_context": "forkserver"}
    loader = DataLoader(Numbers(), persistent_workers=True, **options)
    places = set()
    for _ in range(30):
        for number, (image, place) in enumerate(loader):
            assert (image == number).all()
            places.add(int(place))
            if number == 2:
                break
    assert len(places) <= 5


def test_when_all_slots_are_kept_batches_are_handed_over_as_torch_does():
    class Few(Numbers):
        def __len__(self):
            return slots.MOST + 20

    loader = DataLoader(Few((2, 2)), batch_size=None, num_workers=1, multiprocessing_context="fork")
    for number, image in enumerate([image for image, _ in loader]):
        assert (image == number).all()


def test_a_slot_that_is_too_small_makes_way():
    memory = Slots()
    small = memory.take((2, 3))
    assert memory.take((2, 3)).data_ptr() == small.data_ptr(), "until it is handed over"
    memory.hand_over(small)
    large = memory.take((4, 3))
    assert large.data_ptr() != small.data_ptr()
    assert memory.take((1, 3)).data_ptr() == large.data_ptr(), "one that is too large will do"
    assert memory.take((5, 3)).data_ptr() != large.data_ptr()
    assert memory.take((0, 3)).shape == (0, 3)


def test_where_shared_memory_is_full_it_is_said_how_much_is_needed(monkeypatch):
    def full(tensor):
        raise RuntimeError("No space left on device (28)")

    monkeypatch.setattr(torch.Tensor, "share_memory_", full)
    with pytest.raises(OSError, match=r"batch of 3 MiB.*No space left.*enlarge /dev/shm") as info:
        Slots().take((2**20, 3))
    assert info.value.errno == errno.ENOSPC


def arrived(over):
    rebuild, parts = over.__reduce__()
    return rebuild(*parts)


def test_what_lies_elsewhere_is_copied_into_a_slot():
    memory = Slots()
    values = torch.arange(24, dtype=torch.uint8).view(2, 3, 4)
    for tensor in (values, values.permute(1, 2, 0), values[:0]):
        assert torch.equal(arrived(memory.hand_over(tensor)), tensor)
    numbers = torch.arange(6).view(2, 3).T
    assert torch.equal(arrived(memory.hand_over(numbers)), numbers)


def test_memory_is_in_use_as_long_as_anything_refers_to_it():
    memory = Slots()
    first = memory.take((2, 3))
    received = arrived(memory.hand_over(first))

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
    memory = Slots()
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
