"""Archives and tensors that are larger than their file are refused before they fill the memory."""

from __future__ import annotations

import zipfile

import pytest
import torch

from bagnet.model.archive import check_archive
from bagnet.model.files import is_whole, read_saved
from bagnet.run.checkpoint_io import AtomicCheckpointIO


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "some.ckpt"
    torch.save({"state_dict": {"fc.weight": torch.rand(300, 300)}}, path)
    return path


def repacked(file, **options):
    with zipfile.ZipFile(file) as archive:
        parts = {name: archive.read(name) for name in archive.namelist()}
    with zipfile.ZipFile(file, "w", **options) as archive:
        for name, content in parts.items():
            archive.writestr(name, bytes(len(content)) if "/data/" in name else content)


def test_what_torch_writes_is_whole(file):
    check_archive(file)
    assert is_whole(file)
    assert read_saved(file).weights["fc.weight"].shape == (300, 300)


def test_a_compressed_archive_is_refused(file):
    size = file.stat().st_size
    repacked(file, compression=zipfile.ZIP_DEFLATED)
    assert file.stat().st_size < size / 50
    assert not is_whole(file)
    with pytest.raises(ValueError, match="some.ckpt is not a checkpoint.*compressed, or larger"):
        read_saved(file)
    with pytest.raises(ValueError, match="some.ckpt is not a checkpoint.*compressed, or larger"):
        read_saved(file, tensors=False)


def test_parts_that_overlap_are_refused(file):
    """A directory that names one part many times."""
    with zipfile.ZipFile(file, "a") as archive:
        part = archive.getinfo("some/data/0")
        archive.filelist += [part] * 50
        archive._didModify = True
    assert not is_whole(file)
    with pytest.raises(ValueError, match="larger than the file"):
        check_archive(file)


def test_a_part_with_two_sizes_is_not_whole(file):
    """PyTorch's reader goes by the one and Python's by the other."""
    with zipfile.ZipFile(file, "a") as archive:
        archive.getinfo("some/data/0").compress_size = 2**32 - 2
        archive._didModify = True
    assert not is_whole(file)
    with pytest.raises(ValueError, match="some.ckpt is not a checkpoint"):
        read_saved(file)


@pytest.mark.parametrize(
    "tensor",
    [
        torch.zeros(1).expand(10**7, 10**7),
        torch.eye(3).to_sparse(),
        torch.empty(3, device="meta"),
    ],
    ids=["view", "sparse", "meta"],
)
def test_tensors_that_do_not_store_their_values_are_refused(file, tensor):
    torch.save({"state_dict": {"fc.weight": tensor}}, file)
    with pytest.raises(ValueError, match="some.ckpt has tensors that do not store all.*fc.weight"):
        read_saved(file)
    with pytest.raises(ValueError, match="some.ckpt is not a checkpoint of ours.*fc.weight"):
        AtomicCheckpointIO().load_checkpoint(file, weights_only=True)


def test_a_part_whose_own_name_is_no_text_is_damaged(file):
    with zipfile.ZipFile(file) as archive:
        start = archive.infolist()[0].header_offset
    content = bytearray(file.read_bytes())
    content[start + 7] |= 0x08  # its name is in UTF-8 ...
    content[start + 30] = 0xFF  # ... which has no such byte; torch reads only the list at the end
    file.write_bytes(content)
    assert read_saved(file)
    assert not is_whole(file)
