"""From ids to a batch: the right bytes, in the order asked for, or an error that names them."""

import io
import pickle
import tarfile

import numpy as np
import pytest
import torch
from PIL import Image

from datamodules import stream
from datamodules.manifest import Manifest
from datamodules.shards import shard_name, write_shard
from datamodules.stream import Batches, SampleError
from datamodules.transforms import eval_transform, train_transform


def jpeg(number):
    """An image that shows its number: flat grey, so that it survives JPEG and resizing."""
    file = io.BytesIO()
    Image.new("RGB", (20, 16), (number, number, number)).save(file, "JPEG")
    return file.getvalue()


@pytest.fixture
def manifest(tmp_path):
    """40 samples in 5 shards; sample 7 shows the grey value 7 and has the label 7 % 3."""
    folder, parts = tmp_path / "data" / "train", []
    folder.mkdir(parents=True)
    for shard in range(5):
        samples = [(f"key{i}", jpeg(i), i % 3) for i in range(shard * 8, shard * 8 + 8)]
        parts.append(write_shard(folder / shard_name(shard), samples))
    Manifest.assemble(folder, "abc", "abc", parts).save()
    return Manifest.load(folder)


@pytest.fixture
def batches(manifest):
    return Batches(manifest, eval_transform(12, 14))


def test_a_batch_has_the_samples_asked_for_in_their_order(batches):
    ids = np.array([39, 0, 17, 8, 7, 17])
    images, labels, sample_ids = batches[0, ids]
    assert images.shape == (6, 3, 12, 12)
    assert images.dtype == torch.uint8
    assert images.is_contiguous()
    assert labels.dtype == sample_ids.dtype == torch.int64
    assert sample_ids.tolist() == ids.tolist()
    assert labels.tolist() == (ids % 3).tolist()
    assert np.abs(images[:, 0, 6, 6].numpy() - ids).max() <= 1


def test_augmentation_depends_on_seed_epoch_and_sample_only(manifest):
    transform = train_transform(12, min_scale=0.1)
    noise = torch.randint(0, 256, (3, 16, 20), dtype=torch.uint8)

    def image(seed, epoch, ids, sample):
        batches = Batches(manifest, lambda _: transform(noise), seed)
        images, _, sample_ids = batches[epoch, np.array(ids)]
        return images[sample_ids.tolist().index(sample)]

    first = image(0, 0, [3, 9, 20], 9)
    torch.manual_seed(5)
    assert torch.equal(image(0, 0, [31, 30, 9], 9), first)
    assert not torch.equal(image(1, 0, [9], 9), first)
    assert not torch.equal(image(0, 1, [9], 9), first)
    assert not torch.equal(image(0, 0, [8], 8), first)


def test_few_files_are_open_at_once_and_pickling_leaves_them_behind(manifest, monkeypatch):
    monkeypatch.setattr(stream, "_MAX_OPEN_SHARDS", 2)
    opened, closed = [], []
    real_open, real_close = stream.os.open, stream.os.close
    monkeypatch.setattr(
        stream.os, "open", lambda *args: opened.append(real_open(*args)) or opened[-1]
    )
    monkeypatch.setattr(stream.os, "close", lambda file: closed.append(file) or real_close(file))
    batches = Batches(manifest, eval_transform(12, 14))
    for shards in ([0, 8, 0, 8], [16, 24], [0]):
        batches[0, np.array(shards)]
        assert len(opened) - len(closed) <= 2
    assert len(opened) == 5
    copy = pickle.loads(pickle.dumps(batches))
    assert torch.equal(copy[0, np.array([3])][0], batches[0, np.array([3])][0])
    del copy, batches
    assert sorted(opened) == sorted(closed)


def test_a_shard_that_is_gone_is_named_with_sample_and_remedy(manifest, batches):
    (manifest.root / "shard-000002.tar").unlink()
    assert len(batches[0, np.array([15])][0]) == 1
    with pytest.raises(SampleError) as caught:
        batches[0, np.array([15, 16])]
    message = str(caught.value)
    assert "'key16'" in message
    assert "shard-000002.tar: No such file" in message
    assert f"`python -m datamodules.pack verify {manifest.root.parent}`" in message


def test_a_shard_cut_short_is_named(manifest, batches):
    path = manifest.root / "shard-000001.tar"
    path.write_bytes(path.read_bytes()[: manifest.sample(12).offset + 100])
    assert len(batches[0, np.array([11])][0]) == 1
    with pytest.raises(SampleError, match=r"'key12' of .*000001.tar: the shard ends before"):
        batches[0, np.array([12])]


def test_an_image_that_cannot_be_decoded_is_named(manifest, batches):
    sample = manifest.sample(20)
    with (manifest.root / sample.shard).open("r+b") as file:
        file.seek(sample.offset)
        file.write(bytes(sample.size))
    with pytest.raises(SampleError, match=r"'key20' of .*000002.tar: not a readable image"):
        batches[0, np.array([20])]


def test_an_error_in_the_code_is_not_taken_for_bad_data(manifest):
    with pytest.raises(ZeroDivisionError):
        Batches(manifest, lambda image: 1 / 0)[0, np.array([0])]


def test_the_bytes_are_those_that_tar_gives(manifest, batches):
    with tarfile.open(manifest.root / "shard-000003.tar") as tar:
        expected = tar.extractfile("key28.jpg").read()
    sample = manifest.sample(28)
    file = manifest.root / sample.shard
    assert batches._read_members._read(str(file), sample.offset, sample.size) == expected
