"""Decoding and augmentation: uint8 in, uint8 out, drawn from a seed and from nothing else."""

import io
import pickle

import numpy as np
import pytest
import torch
from PIL import Image

from datamodules.transforms import decode, drawing_from, eval_transform, train_transform

PIXELS = np.random.default_rng(0).integers(0, 256, (30, 40, 3), dtype=np.uint8)


def encoded(image_format, mode="RGB", **options):
    file = io.BytesIO()
    Image.fromarray(PIXELS).convert(mode).save(file, image_format, **options)
    return file.getvalue()


@pytest.mark.parametrize(
    ("image_format", "mode", "options"),
    [
        ("JPEG", "RGB", {}),
        ("JPEG", "RGB", {"progressive": True}),
        ("JPEG", "L", {}),
        ("JPEG", "CMYK", {}),
        ("PNG", "RGB", {}),
        ("PNG", "LA", {}),
        ("PNG", "P", {}),
        ("GIF", "RGB", {}),
        ("BMP", "RGB", {}),
        ("TIFF", "RGB", {}),
    ],
)
def test_decoding_gives_the_rgb_pixels_that_pillow_gives(image_format, mode, options):
    data = encoded(image_format, mode, **options)
    image = decode(data)
    reference = np.asarray(Image.open(io.BytesIO(data)).convert("RGB")).astype(int)
    assert image.shape == (3, 30, 40)
    assert image.dtype == torch.uint8
    # the decoders may differ in the rounding of a colour space
    assert np.abs(image.permute(1, 2, 0).numpy().astype(int) - reference).max() <= 2


def test_a_16_bit_image_becomes_8_bit():
    file = io.BytesIO()
    Image.fromarray(PIXELS[..., 0].astype(np.uint16) * 257).save(file, "PNG")
    image = decode(file.getvalue())
    assert image.dtype == torch.uint8
    assert torch.equal(image, torch.from_numpy(PIXELS[..., 0]).expand(3, -1, -1))


def test_an_animation_gives_its_first_frame():
    frames = [Image.new("RGB", (40, 30), colour) for colour in ("red", "blue")]
    file = io.BytesIO()
    frames[0].save(file, "GIF", save_all=True, append_images=frames[1:])
    image = decode(file.getvalue())
    assert image.shape == (3, 30, 40)
    assert image[:, 0, 0].tolist() == [255, 0, 0]


@pytest.mark.parametrize("data", [b"", b"no image", encoded("JPEG")[:300], encoded("PNG")[:300]])
def test_what_is_no_whole_image_is_an_error(data):
    with pytest.raises(ValueError, match="not a readable image"):
        decode(data)


@pytest.mark.parametrize("shape", [(30, 40), (40, 30), (20, 500), (5, 5)])
def test_both_transforms_give_the_size_asked_for_from_any_image(shape):
    image = torch.randint(0, 256, (3, *shape), dtype=torch.uint8)
    for transform in (train_transform(24), eval_transform(24, 28)):
        result = transform(image)
        assert result.shape == (3, 24, 24)
        assert result.dtype == torch.uint8


def test_evaluation_sees_the_centre_of_the_whole_image():
    image = torch.zeros(3, 30, 60, dtype=torch.uint8)
    image[:, :, 20:40] = 200
    assert (eval_transform(20, 30)(image) == 200).all()
    # an image smaller than the crop is enlarged, not padded with black
    assert (eval_transform(40, 50)(torch.full((3, 10, 15), 9, dtype=torch.uint8)) == 9).all()


def test_training_crops_are_no_smaller_than_asked_for():
    ramp = torch.arange(100, dtype=torch.uint8).expand(3, 100, 100)  # a column's value is its place
    whole, small = train_transform(50, min_scale=1.0), train_transform(50, min_scale=0.01)
    spans = {name: [] for name in ("whole", "small")}
    for seed in range(50):
        with drawing_from(seed):
            spans["whole"].append(np.ptp(whole(ramp).numpy()))
        with drawing_from(seed):
            spans["small"].append(np.ptp(small(ramp).numpy()))
    assert min(spans["whole"]) > 80
    assert min(spans["small"]) < 40


def test_augmentation_depends_on_the_seed_only_and_disturbs_nobody():
    image = torch.from_numpy(PIXELS).permute(2, 0, 1)
    transform = pickle.loads(pickle.dumps(train_transform(16)))

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
        (train_transform, (0,), "image_size is 0"),
        (train_transform, (24, 0.0), "min_scale is 0.0"),
        (train_transform, (24, 1.5), "min_scale is 1.5"),
        (eval_transform, (24, -1), "resize_size is -1"),
        (eval_transform, (288, 256), "resize_size is 256 and image_size 288.* at least 288"),
    ],
)
def test_sizes_that_make_no_sense_are_errors(make, arguments, message):
    with pytest.raises(ValueError, match=message):
        make(*arguments)
