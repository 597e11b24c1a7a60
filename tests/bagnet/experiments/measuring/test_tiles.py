"""Shuffled tiles: where each goes, and networks that cannot or must not notice."""

from __future__ import annotations

import pytest
import torch

from bagnet.experiments.measuring.tiles import check_divides, orders, shuffle_tiles
from bagnet.model.registry import normalize
from datamodules.plan import permutation
from tests.bagnet.experiments.bags import Histogram, pictures, tiny_bagnet


def test_tiles_change_places_whole():
    image = torch.arange(6 * 4).view(1, 1, 6, 4)
    shuffled = shuffle_tiles(image, torch.tensor([[2, 0, 3, 1]]))[0, 0]
    for place, tile in enumerate([2, 0, 3, 1]):
        rows, columns = (
            (slice(n // 2 * 3, n // 2 * 3 + 3), slice(n % 2 * 2, n % 2 * 2 + 2))
            for n in (place, tile)
        )
        assert torch.equal(shuffled[rows], image[0, 0][columns])


def test_an_order_is_drawn_by_seed_and_sample_whatever_the_batch():
    ids = torch.tensor([3, 70000, 5])
    together = orders(4, ids, seed=1)
    assert together[1].tolist() == permutation(16, 1, 70000, 4).tolist()
    assert (together.sort(1)[0] == torch.arange(16)).all()
    assert len(together.unique(dim=0)) == 3
    for row in range(3):
        assert torch.equal(orders(4, ids[row, None], seed=1)[0], together[row])
    assert (orders(4, ids, seed=2) != together).any()


def test_every_order_is_as_likely():
    drawn = orders(2, torch.arange(24 * 100), seed=0)
    _, counts = drawn.unique(dim=0, return_counts=True)
    assert len(counts) == 24
    assert (counts - 100).abs().max() < 5 * 100**0.5


@pytest.mark.parametrize("count", [2, 4, 7, 14])
def test_a_network_that_does_not_know_where_its_pixels_are_is_immune(count):
    images = pictures(4, 56)
    shuffled = shuffle_tiles(images, orders(count, torch.arange(4), seed=0))
    assert not torch.equal(shuffled, images)
    model = Histogram()
    assert torch.equal(model(normalize(shuffled)), model(normalize(images)))


@torch.no_grad()
def test_only_the_patches_across_the_seams_of_a_bagnet_change():
    """A patch of 9 px lies in its tile of 16 px if it starts at pixel 0, but not at pixel 8."""
    model = tiny_bagnet(9)
    images = normalize(pictures(2, 64), torch.float64)
    order = orders(4, torch.arange(2), seed=0)
    before = model.logits_map(images)[..., ::2, ::2]
    after = model.logits_map(shuffle_tiles(images, order))[..., ::2, ::2]
    torch.testing.assert_close(after, shuffle_tiles(before, order), rtol=1e-9, atol=1e-12)
    torch.testing.assert_close(after.mean((2, 3)), before.mean((2, 3)))


@pytest.mark.parametrize(
    ("side", "count", "message"),
    [
        (
            224,
            9,
            r"--tiles 9 does not cut images of 224 px.*: give 7 or 8, .*image_size of 216 or 225$",
        ),
        (128, 7, r"give 4 or 8, or a --data.image_size of 126 or 133$"),
        (128, 1, r"--tiles 1 .*: give 2 or 4$"),
        (128, 0, r"--tiles 0 .*: give 2 or 4$"),
    ],
)
def test_tiles_that_do_not_fit_are_refused_with_the_nearest_that_do(side, count, message):
    with pytest.raises(ValueError, match=message):
        check_divides(side, count)


def test_tiles_that_fit_are_not_refused():
    for count in (2, 4, 7, 8, 14, 16, 224):
        check_divides(224, count)
