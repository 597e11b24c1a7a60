"""Crops and flips: drawn from a seed and nothing else, resized as PIL does."""

import io
import pickle

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision.transforms import v2

from datamodules.decoding import images
from datamodules.decoding.augmentation import TrainTransform, train_transforms
from datamodules.decoding.images import UnreadableImage, image_size
from datamodules.decoding.transforms import (
    EvalTransform,
    WholeTransform,
    drawing_from,
)
from tests.datamodules.loaders import image_file, noise


def png(image):
    """A file of these pixels, uint8 (3, H, W)."""
    return image_file(image.permute(1, 2, 0).contiguous().numpy(), "PNG")


def photo(height, width):
    """Smooth and noisy parts: uint8 (height, width, 3)."""
    noise = np.random.default_rng(height).normal(0, 20, (height, width, 3))
    rows, columns = np.mgrid[:height, :width]
    waves = 128 + 90 * np.sin(rows / 9)[..., None] * np.cos(columns / 14)[..., None]
    return (waves + noise).clip(0, 255).astype(np.uint8)


@pytest.mark.parametrize("shape", [(30, 40), (40, 30), (20, 500), (5, 5)])
def test_both_transforms_give_the_requested_size_from_any_image(shape):
    image = png(torch.randint(0, 256, (3, *shape), dtype=torch.uint8))
    for transform in (TrainTransform(24), EvalTransform(24, 28)):
        result = transform(image)
        assert result.shape == (3, 24, 24)
        assert result.dtype == torch.uint8


def test_evaluation_sees_the_centre_of_the_whole_image():
    image = torch.zeros(3, 30, 60, dtype=torch.uint8)
    image[:, :, 20:40] = 200
    assert (EvalTransform(20, 30)(png(image)) == 200).all()
    # an image smaller than the crop is enlarged, not padded with black
    small = png(torch.full((3, 10, 15), 9, dtype=torch.uint8))
    assert (EvalTransform(40, 50)(small) == 9).all()


def test_a_strip_is_cropped_before_it_is_enlarged():
    """Enlarged as a whole, this one would take 2 GB."""
    ramp = (np.arange(60_000) // 300).astype(np.uint8)
    wide = np.broadcast_to(ramp[None, :, None], (1, 60_000, 3))
    for strip in (wide, wide.transpose(1, 0, 2)):
        data = image_file(np.ascontiguousarray(strip), "PNG")
        view = EvalTransform(224, 256).view(*image_size(data))
        assert view.height * view.width == 256 * 16 * 256
        assert (EvalTransform(224, 256)(data).float() - 100).abs().max() <= 1  # the middle
        with pytest.raises(UnreadableImage, match="pixels, and would have .* more than"):
            WholeTransform(256)(data)


@pytest.mark.parametrize("decoder", ["of a region", "of whole images"])
@pytest.mark.parametrize("shape", [(90, 130), (301, 203), (40, 33)])
def test_pixels_are_within_1_of_those_of_pillow_and_torchvision(shape, decoder, monkeypatch):
    """The reference is the usual pipeline, with the same draws."""
    if decoder == "of whole images":
        monkeypatch.setattr(images, "decode_region", lambda data, box: None)
    usual = {
        TrainTransform(56): [v2.RandomResizedCrop(56), v2.RandomHorizontalFlip()],
        TrainTransform(56, resize_size=64): [
            *(v2.Resize(64), v2.RandomCrop(56), v2.RandomHorizontalFlip())
        ],
        EvalTransform(56, 64): [v2.Resize(64), v2.CenterCrop(56)],
    }
    data = image_file(photo(*shape), quality=90)
    for transform, steps in usual.items():
        reference = v2.Compose([*steps, v2.PILToTensor()])
        for seed in range(12):
            with drawing_from(seed):
                expected = reference(Image.open(io.BytesIO(data)))
            with drawing_from(seed):
                found = transform(data)
            assert (found.int() - expected.int()).abs().max() <= 1


def test_training_crops_are_no_smaller_than_requested():
    # The value of a column is its place.
    ramp = png(torch.arange(100, dtype=torch.uint8).expand(3, 100, 100))
    whole, small = TrainTransform(50, min_scale=1.0), TrainTransform(50, min_scale=0.01)
    spans = {name: [] for name in ("whole", "small")}
    for seed in range(50):
        with drawing_from(seed):
            spans["whole"].append(np.ptp(whole(ramp).numpy()))
        with drawing_from(seed):
            spans["small"].append(np.ptp(small(ramp).numpy()))
    assert min(spans["whole"]) > 80
    assert min(spans["small"]) < 40


def test_further_transforms_draw_as_in_torchvision():
    steps = [v2.RandAugment(magnitude=12), v2.TrivialAugmentWide(), v2.RandomErasing(p=0.5)]
    image, plain = image_file(noise(30, 40), "PNG"), TrainTransform(16)
    different = 0
    for seed in range(10):
        with drawing_from(seed):
            expected = v2.Compose(steps)(plain(image))
        with drawing_from(seed):
            found = pickle.loads(pickle.dumps(TrainTransform(16, augment=steps)))(image)
        assert torch.equal(found, expected)
        with drawing_from(seed):
            different += not torch.equal(found, plain(image))
    assert different > 5


@pytest.mark.parametrize("transform", [v2.ToDtype(torch.float32), v2.Resize(8), v2.Grayscale()])
def test_a_transform_that_changes_types_or_sizes_is_named(transform):
    with pytest.raises(
        ValueError, match=f"{type(transform).__name__} returned .*, not torch.uint8"
    ):
        TrainTransform(16, augment=[transform])


def test_a_transform_that_fails_is_named():
    with pytest.raises(ValueError, match="augment: Normalize failed on a grey image: .*float"):
        TrainTransform(16, augment=[v2.Normalize([0.5], [0.5])])


def test_augmentation_depends_on_the_seed_only_and_leaves_the_random_state_alone():
    image = image_file(noise(30, 40), "PNG")
    transform = pickle.loads(pickle.dumps(TrainTransform(16)))

    def drawn(seed):
        with drawing_from(seed):
            return transform(image)

    torch.manual_seed(1)
    before = torch.get_rng_state()
    first = drawn(2**64 - 1)
    assert torch.equal(torch.get_rng_state(), before)
    torch.manual_seed(2)
    assert torch.equal(drawn(2**64 - 1), first)
    assert not torch.equal(drawn(5), first)


def test_the_random_state_is_restored_after_an_error():
    def fail():
        with drawing_from(3):
            torch.rand(1)
            raise KeyError

    before = torch.get_rng_state()
    with pytest.raises(KeyError):
        fail()
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize(
    ("make", "arguments", "message"),
    [
        (TrainTransform, (0,), "image_size is 0"),
        (TrainTransform, (24, 0.0), "min_scale is 0.0"),
        (TrainTransform, (24, 1.5), "min_scale is 1.5"),
        (EvalTransform, (24, -1), "resize_size is -1"),
        (EvalTransform, (288, 256), "resize_size is 256 and image_size 288.* at least 288"),
    ],
)
def test_sizes_that_make_no_sense_are_errors(make, arguments, message):
    with pytest.raises(ValueError, match=message):
        make(*arguments)


def test_training_images_can_grow_from_epoch_to_epoch():
    data = image_file(noise(80, 60), "PNG")
    found = train_transforms(32, 40, "random", 0.08, [], {0: 16, 3: 32})
    assert {epoch: tuple(each(data).shape) for epoch, each in found.items()} == {
        0: (3, 16, 16),
        3: (3, 32, 32),
    }
    with drawing_from(1):
        expected = TrainTransform(16, resize_size=20)(data)
    with drawing_from(1):
        assert torch.equal(found[0](data), expected)


@pytest.mark.parametrize("sizes", [{}, {1: 32}])
def test_the_first_epoch_needs_a_size(sizes):
    with pytest.raises(ValueError, match="it must have a size for epoch 0"):
        train_transforms(32, 40, "random", 0.08, [], sizes)
