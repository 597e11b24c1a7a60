"""The data benchmark: real measurements of tiny data, as a table and as JSON."""

from __future__ import annotations

from dataclasses import fields
from pathlib import Path

import numpy as np
import pytest
import simplejpeg
import torch

from bagnet.bench.lib import pipelines
from bagnet.bench.options import DataOptions
from datamodules.decoding.augmentation import TrainTransform

REPOSITORY = Path(__file__).parents[3]
TINY = ("--batch_size", "16", "--image_size", "32", "--seconds", "0.1", "--rounds", "1")


@pytest.mark.slow
def test_variants_are_measured_in_turn_and_printed_as_ratios(shards, figures, output):
    found = figures("data", str(shards), *TINY, "--other", str(REPOSITORY))
    rates = found["images_per_second"]
    usual = ["imagefolder", "imagefolder_uint8", "webdataset"]
    assert list(rates) == [*usual, "whole", "ours", "other"]
    assert all(len(values) == 1 and values[0] > 0 for values in rates.values())
    assert f"{rates['ours'][0] / rates['imagefolder'][0]:.2f}" in output()


@pytest.mark.slow
def test_a_variant_that_fails_is_one_line(tmp_path, error):
    message = error("data", str(tmp_path / "nowhere"), "--variants", "ours", *TINY)
    assert "ours of" in message
    assert "nowhere does not exist" in message


@pytest.mark.parametrize("name", ["webdataset", "whole", "ours"])
def test_pipelines_yield_batches_of_crops(name, shards):
    settings = pipelines.Settings(name, str(shards), 0, 16, 32, 0.1)
    assert {field.name for field in fields(DataOptions)} >= {*settings._fields[1:]}
    images = next(pipelines.PIPELINES[name](settings))[0]
    assert images.shape == (16, 3, 32, 32)


def test_whole_images_give_the_same_crops():
    noise = np.random.default_rng(0).integers(0, 256, (60, 80, 3), np.uint8)
    data = simplejpeg.encode_jpeg(noise)
    crops = []
    for transform in (TrainTransform(32), pipelines._WholeImages(32)):
        torch.manual_seed(0)
        crops.append(transform(data))
    assert torch.equal(*crops)
