"""From ids to a batch: the right samples, in the requested order, or an error that names them."""

import dataclasses
import errno
import pickle
import tarfile
import zlib

import numpy as np
import pytest
import torch

from datamodules.common.batch import UNREADABLE
from datamodules.common.errors import SampleError
from datamodules.decoding import images as image_files
from datamodules.decoding.augmentation import TrainTransform
from datamodules.decoding.transforms import EvalTransform
from datamodules.loading.batches import Batches
from datamodules.shards import reader as members
from datamodules.shards.manifest import Manifest
from datamodules.shards.reader import SampleReader
from datamodules.shards.writer import shard_name
from tests.datamodules.loaders import image_file, noise, write_data


def jpeg(number):
    """An image that shows its number: plain grey, so that it survives JPEG and resizing."""
    return image_file(np.full((16, 20, 3), number, np.uint8))


@pytest.fixture
def manifest(tmp_path):
    """40 samples in 5 shards; sample 7 shows the grey value 7 and has the label 7 % 3."""
    return Manifest.load(write_data(tmp_path / "data" / "train", (8,) * 5, "abc", image=jpeg))


@pytest.fixture
def batches(manifest):
    return Batches(manifest, EvalTransform(12, 14))


def test_a_batch_has_the_requested_samples_in_order(batches):
    ids = np.array([39, 0, 17, 8, 7, 17])
    (images, labels, sample_ids), unreadable = batches[0, ids]
    assert unreadable == ()
    assert images.shape == (6, 3, 12, 12)
    assert images.dtype == torch.uint8
    assert images.is_contiguous(memory_format=torch.channels_last)
    assert labels.dtype == sample_ids.dtype == torch.int64
    assert sample_ids.tolist() == ids.tolist()
    assert labels.tolist() == (ids % 3).tolist()
    assert np.abs(images[:, 0, 6, 6].numpy() - ids).max() <= 1


def test_augmentation_depends_on_seed_epoch_and_sample_only(manifest):
    transform = TrainTransform(12, min_scale=0.1)
    file = image_file(noise(16, 20))

    def image(seed, epoch, ids, sample):
        batches = Batches(manifest, lambda _: transform(file), seed)
        (images, _, sample_ids), _ = batches[epoch, np.array(ids)]
        return images[sample_ids.tolist().index(sample)]

    first = image(0, 0, [3, 9, 20], 9)
    torch.manual_seed(5)
    assert torch.equal(image(0, 0, [31, 30, 9], 9), first)
    assert not torch.equal(image(1, 0, [9], 9), first)
    assert not torch.equal(image(0, 1, [9], 9), first)
    assert not torch.equal(image(0, 0, [8], 8), first)


def test_each_epoch_has_the_transform_that_began_last(manifest):
    batches = Batches(manifest, {0: EvalTransform(8, 8), 2: EvalTransform(12, 14)})
    sides = [batches[epoch, np.array([1, 2])][0][0].shape[-1] for epoch in range(4)]
    assert sides == [8, 8, 12, 12]


def test_few_files_are_open_at_once_and_pickling_leaves_them_behind(manifest, monkeypatch):
    monkeypatch.setattr(members, "_MAX_OPEN_SHARDS", 2)
    opened, closed = [], []
    real_open, real_close = members.os.open, members.os.close
    monkeypatch.setattr(
        members.os, "open", lambda *args: opened.append(real_open(*args)) or opened[-1]
    )
    monkeypatch.setattr(members.os, "close", lambda file: closed.append(file) or real_close(file))
    batches = Batches(manifest, EvalTransform(12, 14))
    for shards in ([0, 8, 0, 8], [16, 24], [0]):
        batches[0, np.array(shards)]
        assert len(opened) - len(closed) <= 2
    assert len(opened) == 5
    copy = pickle.loads(pickle.dumps(batches))
    assert torch.equal(copy[0, np.array([3])][0][0], batches[0, np.array([3])][0][0])
    _has_a_file_too = copy.manifest
    del copy, batches
    assert sorted(opened) == sorted(closed)


def read_around(batches, ids, bad):
    """Read a batch in which some samples are bad; returns their errors."""
    whole = np.array([i for i in ids if i not in bad])
    (images, labels, sample_ids), unreadable = batches[0, np.array(ids)]
    assert sample_ids.tolist() == ids
    assert [error.sample_id for error in unreadable] == sorted(bad, key=ids.index)
    at = torch.tensor([i in bad for i in ids])
    assert (labels[at] == UNREADABLE).all()
    assert (images[at] == 128).all()
    if len(whole):  # the other pixels do not change
        (expected, expected_labels, _), _ = batches[0, whole]
        assert torch.equal(images[~at], expected)
        assert torch.equal(labels[~at], expected_labels)
    return [str(error) for error in unreadable]


def overwrite(manifest, sample_id, data, offset=0):
    sample = manifest.sample(sample_id)
    with (manifest.root / sample.shard.name).open("r+b") as file:
        file.seek(sample.offset + offset)
        file.write(data)


def vouch_for(manifest, sample_id, **values):
    """Change the entry of a sample in the index, as if it had been packed like this."""
    samples = np.array(manifest.samples)
    for name, value in values.items():
        samples[name][sample_id] = value
    return dataclasses.replace(manifest, samples=samples)


def test_a_missing_shard_is_named_with_its_samples(manifest, batches):
    (manifest.root / "shard-000002.tar").unlink()
    said = read_around(batches, [15, 16, 3, 23], {16, 23})
    shard = manifest.root / "shard-000002.tar"
    assert said[0] == f"cannot read sample 'key16' of {shard}: No such file or directory"
    assert read_around(batches, [16], {16})


def test_a_shard_cut_short_gives_what_is_before_the_cut(manifest, batches):
    path = manifest.root / "shard-000001.tar"
    path.write_bytes(path.read_bytes()[: manifest.sample(12).offset + 100])
    (said,) = read_around(batches, [11, 12], {12})
    assert said.endswith("the shard ends before the sample does")


def test_a_missing_member_shifts_the_others_and_all_of_them_are_noticed(manifest, batches):
    path = manifest.root / "shard-000001.tar"
    content = path.read_bytes()
    begin, end = manifest.sample(10).offset - 512, manifest.sample(11).offset - 512
    path.write_bytes(content[:begin] + content[end:])
    said = read_around(batches, list(range(8, 16)), set(range(10, 16)))
    assert said[0].endswith("its bytes are not those that were packed")


def test_a_shard_of_other_data_is_not_taken_for_this_one(manifest, batches):
    for there, here in ((0, 1), (1, 0)):
        (manifest.root / shard_name(there)).rename(manifest.root / f"{here}.tmp")
    for number in (0, 1):
        (manifest.root / f"{number}.tmp").rename(manifest.root / shard_name(number))
    assert len(read_around(batches, list(range(20)), set(range(16)))) == 16


@pytest.mark.parametrize("sample_id", [8, 12, 15])
def test_a_single_wrong_bit_is_noticed(manifest, batches, sample_id):
    sample = manifest.sample(sample_id)
    content = (manifest.root / sample.shard.name).read_bytes()
    overwrite(manifest, sample_id, bytes([content[sample.offset + 200] ^ 4]), 200)
    read_around(batches, list(range(8, 16)), {sample_id})


def test_a_jpeg_that_was_packed_cut_short_or_is_none(manifest):
    cut = manifest.sample(20).size // 2
    data = (manifest.root / shard_name(2)).read_bytes()[manifest.sample(20).offset :][:cut]
    manifest = vouch_for(manifest, 20, size=cut, crc32=zlib.crc32(data))
    zeros = bytes(manifest.sample(21).size)
    overwrite(manifest, 21, zeros)
    manifest = vouch_for(manifest, 21, crc32=zlib.crc32(zeros))
    said = read_around(Batches(manifest, EvalTransform(12, 14)), [19, 20, 21, 22], {20, 21})
    assert "'key20' of" in said[0]
    assert "not a readable image" in said[0]
    assert "not a readable image" in said[1]


def test_a_decompression_bomb_is_known_by_its_header(manifest, monkeypatch):
    """The header of one image claims 40,000 x 40,000 pixels; all images have 20 x 16."""
    data = bytearray(jpeg(9))
    frame = data.index(b"\xff\xc0")  # length 2, precision 1, height 2, width 2
    data[frame + 5 : frame + 9] = (40_000).to_bytes(2, "big") * 2
    overwrite(manifest, 9, data)
    manifest = vouch_for(manifest, 9, crc32=zlib.crc32(data))

    def watched(decode):
        def decode_others(file, *args, **options):
            assert file != data, "the bomb was decoded"
            return decode(file, *args, **options)

        return decode_others

    for place, name in ((image_files, "decode_region"), (image_files.simplejpeg, "decode_jpeg")):
        monkeypatch.setattr(place, name, watched(getattr(place, name)))
    (said,) = read_around(Batches(manifest, EvalTransform(12, 14)), [8, 9], {9})
    assert "pixels" in said
    assert f"{image_files.MAX_PIXELS:,}" in said
    monkeypatch.setattr(image_files, "MAX_PIXELS", 319)
    read_around(Batches(manifest, EvalTransform(12, 14)), [8, 9], {8, 9})


@pytest.mark.parametrize("label", [-1, 3, 1000])
def test_a_label_outside_the_classes_is_named(manifest, label):
    batches = Batches(vouch_for(manifest, 5, label=label), EvalTransform(12, 14))
    (said,) = read_around(batches, [4, 5, 6], {5})
    assert said.endswith(f"its label is {label}, but there are 3 classes")


def test_a_batch_of_nothing_but_bad_samples_has_its_shape(manifest, batches):
    for path in manifest.root.glob("*.tar"):
        path.unlink()
    (images, labels, _), unreadable = batches[0, np.array([1, 20])]
    assert images.shape == (2, 3, 12, 12)
    assert labels.tolist() == [UNREADABLE] * 2
    assert len(unreadable) == 2


def test_filling_a_place_leaves_the_random_state_alone(manifest):
    (manifest.root / shard_name(0)).unlink()
    before = torch.get_rng_state()
    Batches(manifest, TrainTransform(12))[0, np.array([1, 20])]
    assert torch.equal(torch.get_rng_state(), before)


def test_a_server_that_comes_back_is_waited_for(manifest, monkeypatch):
    """Network file systems answer with an error while their server is away."""
    batches = Batches(manifest, EvalTransform(12, 14))
    batches._read_bytes = SampleReader(delays=(0, 0))
    real, failures = members.os.pread, []

    def pread(file, size, offset):
        if len(failures) < 2:
            failures.append(file)
            raise OSError(errno.ESTALE, "Stale file handle")
        return real(file, size, offset)

    monkeypatch.setattr(members.os, "pread", pread)
    read_around(batches, [7, 8], set())
    assert len(failures) == 2


def test_a_shard_on_a_server_that_stays_away_is_not_waited_for_again(manifest, monkeypatch):
    batches = Batches(manifest, EvalTransform(12, 14))
    batches._read_bytes = SampleReader(delays=(1, 2))
    calls, pauses = [], []
    monkeypatch.setattr(members.time, "sleep", pauses.append)

    def pread(file, size, offset):
        calls.append(offset)
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(members.os, "pread", pread)
    _, unreadable = batches[0, np.arange(8)]
    assert len(unreadable) == 8
    assert len(calls) == 3 + 7
    assert pauses == [1, 2]


@pytest.mark.parametrize("number", [errno.EMFILE, errno.ENOMEM])
def test_an_error_of_this_machine_is_not_bad_data(batches, monkeypatch, number):
    def refuse(*args):
        raise OSError(number, "refused")

    monkeypatch.setattr(members.os, "open", refuse)
    with pytest.raises(OSError, match="refused"):
        batches[0, np.array([3])]


def test_an_error_in_the_code_is_not_taken_for_bad_data(manifest, monkeypatch):
    with pytest.raises(ZeroDivisionError):
        Batches(manifest, lambda image: 1 / 0)[0, np.array([0])]
    monkeypatch.setattr("datamodules.decoding.transforms.pixels", lambda data, box: {}[0])
    with pytest.raises(KeyError):
        Batches(manifest, EvalTransform(12, 14))[0, np.array([0])]


def test_an_error_survives_the_way_from_a_worker():
    error = SampleError(7, "key7", "a.tar", "it is gone")
    copy = pickle.loads(pickle.dumps(error))
    assert str(copy) == str(error) == "cannot read sample 'key7' of a.tar: it is gone"
    assert copy.sample_id == 7


def test_the_bytes_are_those_that_tar_gives(manifest):
    with tarfile.open(manifest.root / "shard-000003.tar") as tar:
        expected = tar.extractfile("key28.jpg").read()
    (sample,) = Batches(manifest, EvalTransform(12, 14)).samples(np.array([28]))
    (read,) = SampleReader()([sample], handler=bool)
    assert read["image"] == expected
