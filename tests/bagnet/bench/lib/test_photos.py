"""Generated JPEGs: packed once, and as large as ImageNet's."""

from __future__ import annotations

from bagnet.bench.lib import photos
from bagnet.bench.lib.photos import pack_photos
from datamodules.imagenet import ImageNetDataModule
from datamodules.shards.manifest import Manifest


def test_photos_are_packed_once_and_are_as_large_as_imagenets(tmp_path, monkeypatch):
    monkeypatch.setattr(photos, "SHARD", 6)
    monkeypatch.setattr(photos, "DISTINCT", 4)
    counts = {"train": 8, "val": 2}
    pack_photos(tmp_path, counts)
    train = Manifest.load(tmp_path / "train")
    assert [shard.samples for shard in train.shards] == [6, 2]
    assert 80_000 < train.samples["size"].mean() < 140_000
    assert len(train.classes) == 1000
    data = ImageNetDataModule(str(tmp_path), batch_size=4, workers=0)
    (images, labels, _), *others = data.train_dataloader()
    assert images.shape == (4, 3, 224, 224)
    assert len(others) == 1
    assert labels.min() >= 0  # all could be read
    shards = sorted(tmp_path.glob("*/*"))
    before = [path.stat().st_mtime_ns for path in shards]
    pack_photos(tmp_path, counts)
    assert [path.stat().st_mtime_ns for path in shards] == before
