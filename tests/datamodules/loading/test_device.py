"""Decoding on the device, here a CPU: the batches are those of workers that decode, whatever the files hold."""

import io
import json
import pickle
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import torchvision
from PIL import Image
from pytorch_lightning import Callback, LightningModule, Trainer

from datamodules.common.batch import UNREADABLE
from datamodules.decoding.transforms import EvalTransform, TrainTransform
from datamodules.imagenet import ImageNetDataModule
from datamodules.loading.batches import Batches
from datamodules.loading.loader import EvalLoader, TrainLoader
from datamodules.shards.manifest import Manifest
from datamodules.shards.writer import shard_name, write_shard

pytestmark = pytest.mark.filterwarnings("ignore:The image decoding and encoding capabilities")

CPU = torch.device("cpu")
KINDS = {
    "420": ("JPEG", "RGB", {}),
    "PNG": ("PNG", "RGB", {}),
    "grey": ("JPEG", "L", {}),
    "CMYK": ("JPEG", "CMYK", {}),
    "444": ("JPEG", "RGB", {"subsampling": 0}),
    "stored as RGB": ("JPEG", "RGB", {"keep_rgb": True}),
    "progressive": ("JPEG", "RGB", {"progressive": True}),
}
ON_THE_DEVICE = ("420", "grey", "444", "progressive")
NUMBER = 28
DAMAGED, CUT = 9, 18


def encoded(number):
    """A noisy image; its number tells its kind and its size."""
    name, mode, options = list(KINDS.values())[number % len(KINDS)]
    rng = np.random.default_rng(number)
    shape = (40 + number, 75 - number, 3)
    picture = np.kron(rng.integers(0, 256, (8, 8, 3)), np.ones((9, 10, 1)))[: shape[0], : shape[1]]
    noisy = np.clip(picture + rng.normal(0, 20, picture.shape), 0, 255).astype(np.uint8)
    file = io.BytesIO()
    Image.fromarray(noisy).convert(mode).save(file, name, **options)
    return file.getvalue()


def damaged():
    """A progressive JPEG with a good header and end, and a table in between that no decoder can use."""
    data = bytearray(encoded(6))
    table = data.index(b"\xff\xc4", data.index(b"\xff\xda"))
    data[table + 5 : table + 21] = b"\xff" * 16
    return bytes(data)


def write(folder, files):
    folder.mkdir(parents=True)
    half, parts = len(files) // 2, []
    samples = [(f"key{i}", file, i % 3) for i, file in enumerate(files)]
    for number, some in enumerate((samples[:half], samples[half:])):
        parts.append(write_shard(folder / shard_name(number), some))
    Manifest.assemble(folder, "abc", "abc", parts).save()


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    """28 images of all kinds, in both splits."""
    root = tmp_path_factory.mktemp("packed")
    for split in ("train", "val"):
        write(root / split, [encoded(i) for i in range(NUMBER)])
    return root


@pytest.fixture(scope="module")
def bad_root(tmp_path_factory):
    """The same, but one file is damaged within and one is cut short."""
    files = [encoded(i) for i in range(NUMBER)]
    files[DAMAGED], files[CUT] = damaged(), files[CUT][:-900]
    root = tmp_path_factory.mktemp("bad")
    write(root / "train", files)
    return root


TRANSFORMS = {"train": TrainTransform(24, 0.1), "val": EvalTransform(24, 30)}


def batches_of(root, split="train", seed=5):
    return Batches(Manifest.load(root / split), TRANSFORMS[split], seed)


def assert_alike(batch, expected):
    """Equal ids and labels, and pixels of which the rounding may differ."""
    assert torch.equal(batch[1], expected[1])
    assert torch.equal(batch[2], expected[2])
    assert batch[0].shape == expected[0].shape
    assert batch[0].dtype == torch.uint8
    assert batch[0].is_contiguous(memory_format=torch.channels_last)
    assert (batch[0].int() - expected[0].int()).abs().max() <= 1


@pytest.mark.parametrize("split", TRANSFORMS)
def test_pixels_of_all_kinds_of_files_are_those_of_the_workers_to_1(root, split):
    batches = batches_of(root, split)
    ids = np.random.default_rng(0).permutation(NUMBER)
    for epoch in range(3):
        handed_out, unreadable = batches.encoded((epoch, ids))
        assert unreadable == ()
        on_device = [i % len(KINDS) for i in ids[handed_out.places].tolist()]
        assert {list(KINDS)[kind] for kind in on_device} == set(ON_THE_DEVICE)
        assert len(on_device) == NUMBER * len(ON_THE_DEVICE) / len(KINDS)
        batch, refused = batches.decode(handed_out, CPU)
        assert refused == ()
        assert_alike(batch, batches[epoch, ids][0])


@pytest.mark.parametrize("ids", [[0, 7], [1, 3], [14]], ids=["all files", "no file", "one"])
def test_a_batch_may_hold_files_only_or_none(root, ids):
    batches = batches_of(root)
    batch, _ = batches.decode(batches.encoded((0, np.array(ids)))[0], CPU)
    assert_alike(batch, batches[0, np.array(ids)][0])


def test_the_workers_hand_out_bytes_in_place_of_pixels(root):
    batches = batches_of(root)
    ids = np.array([0, 1, 2])  # a PNG between two plain JPEGs
    batch, _ = pickle.loads(pickle.dumps(batches.encoded((0, ids))))
    assert batch.images.shape == (1, 3, 24, 24)
    assert batch.places.tolist() == [0, 2]
    assert batch.files.numpy().tobytes() == encoded(0) + encoded(2)
    assert batch.ends.tolist() == [len(encoded(0)), len(encoded(0)) + len(encoded(2))]


def test_a_batch_that_the_device_refuses_is_decoded_as_by_the_workers(root, monkeypatch):
    def refuse(*_, **__):
        raise RuntimeError("no such chip\nC++ frames")

    batches, ids = batches_of(root), np.arange(NUMBER)
    handed_out, _ = batches.encoded((0, ids))
    monkeypatch.setattr(torchvision.io, "decode_jpeg", refuse)
    with pytest.warns(UserWarning, match="cpu cannot decode a batch, .*: no such chip$"):
        (images, labels, _), refused = batches.decode(handed_out, CPU)
    expected = batches[0, ids][0]
    assert refused == ()
    assert torch.equal(images, expected[0])
    assert torch.equal(labels, expected[1])


@pytest.mark.filterwarnings("ignore:cpu cannot decode a batch")
def test_a_damaged_file_is_grey_without_a_label_and_named_as_by_the_workers(bad_root):
    batches, ids = batches_of(bad_root), np.array([8, DAMAGED, CUT, 20])
    handed_out, by_worker = batches.encoded((0, ids))
    assert [error.sample_id for error in by_worker] == [CUT]  # its end is missing
    batch, by_device = batches.decode(handed_out, CPU)
    expected, errors = batches[0, ids]
    assert_alike(batch, expected)
    assert batch[1].tolist() == [8 % 3, UNREADABLE, UNREADABLE, 20 % 3]
    assert (batch[0][[1, 2]] == 128).all()
    assert sorted(map(str, by_worker + by_device)) == sorted(map(str, errors))
    assert handed_out.labels.tolist()[1] == DAMAGED % 3


@pytest.fixture
def train_loader():
    loaders = []

    def make(root, **options):
        loaders.append(TrainLoader(batches_of(root), 8, streams=2, **options))
        return loaders[-1]

    yield make
    for loader in loaders:
        loader.close()


@pytest.mark.filterwarnings("ignore:cpu cannot decode a batch")
@pytest.mark.parametrize("workers", [0, 1])
def test_log_and_audit_are_those_of_workers_that_decode(
    bad_root, train_loader, tmp_path, caplog, workers
):
    caplog.set_level("INFO", "datamodules")
    told, written = [], []
    for device in (None, CPU):
        folder = tmp_path / str(device)
        loader = train_loader(bad_root, workers=workers, device=device, audit_dir=folder)
        for _ in range(3):  # each sample is left out of one epoch at the most
            list(loader)
        told.append(sorted(record.getMessage().partition(" (")[0] for record in caplog.records))
        caplog.clear()
        (path,) = folder.iterdir()
        written.append([json.loads(line) for line in path.read_text().splitlines()])
        for record in written[-1]:  # by a set, as the device's come after the workers'
            record["unreadable"] = set(record.get("unreadable", ()))
    assert any(f"'key{DAMAGED}'" in line for line in told[0])
    assert any(f"'key{CUT}'" in line for line in told[0])
    assert told[0] == told[1]
    assert any(record["unreadable"] == {CUT, DAMAGED} for record in written[0])
    assert written[0] == written[1]


def test_two_epochs_are_those_of_workers_that_decode_and_go_on_anywhere(root, train_loader):
    by_workers, loader = train_loader(root), train_loader(root, workers=1, device=CPU)
    expected = [*by_workers, *by_workers]
    found, states = [], []
    for _ in range(2):
        for batch in loader:
            found.append(batch)
            states.append(loader.state_dict())
    assert len(found) == len(expected) == 6
    for batch, other in zip(found, expected, strict=True):
        assert_alike(batch, other)
    for step in (2, 3, 4):
        resumed = train_loader(root, device=CPU)
        resumed.load_state_dict(states[step - 1])
        left = list(resumed) if step % 3 else []
        left += list(resumed) if step <= 3 else []
        assert len(left) == len(found) - step
        for batch, other in zip(left, found[step:], strict=True):
            assert all(torch.equal(*pair) for pair in zip(batch, other, strict=True))


class Seen(Callback):
    """What Lightning hands to the network."""

    def __init__(self):
        self.trained, self.validated = [], []

    def on_train_batch_start(self, trainer, module, batch, batch_idx):
        self.trained.append(batch)

    def on_validation_batch_start(self, trainer, module, batch, batch_idx, dataloader_idx=0):
        self.validated.append(batch)


class Mean(LightningModule):
    """Enough of a model to train."""

    def __init__(self):
        super().__init__()
        self.linear = torch.nn.Linear(3, 3)

    def training_step(self, batch, _):
        images, labels, _ = batch
        logits = self.linear(images.float().mean((2, 3)) / 255)
        return torch.nn.functional.cross_entropy(logits, labels)

    def validation_step(self, batch, _):
        self.training_step(batch, _)

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.1)


def data_module(root, **options):
    return ImageNetDataModule(
        str(root), batch_size=8, workers=0, image_size=24, resize_size=30, **options
    )


def test_lightning_trains_and_validates_on_the_same_batches(root, tmp_path, monkeypatch):
    seen = []
    for device in (None, CPU):
        monkeypatch.setattr(ImageNetDataModule, "_decoding_device", device)
        seen.append(Seen())
        trainer = Trainer(
            accelerator="cpu",
            logger=False,
            enable_progress_bar=False,
            enable_model_summary=False,
            enable_checkpointing=False,
            default_root_dir=tmp_path,
            callbacks=[seen[-1]],
            max_epochs=2,
        )
        trainer.fit(Mean(), datamodule=data_module(root))
    by_workers, by_device = seen
    assert len(by_workers.trained) == 6
    assert len(by_workers.validated) > 8
    for batch, other in zip(by_device.trained, by_workers.trained, strict=True):
        assert_alike(batch, other)
    for batch, other in zip(by_device.validated, by_workers.validated, strict=True):
        assert_alike(batch, other)
    assert not torch.equal(by_device.trained[0][0], by_device.trained[3][0])


def simulated(root, device, **options):
    data = data_module(root, **options)
    data.trainer = SimpleNamespace(
        global_rank=0,
        world_size=1,
        accumulate_grad_batches=1,
        strategy=SimpleNamespace(root_device=torch.device(device)),
    )
    return data


def test_the_gpu_of_the_rank_decodes_if_asked_to_and_the_workers_if_not(root, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    made = []
    for loader in (TrainLoader, EvalLoader):
        monkeypatch.setattr(
            f"datamodules.imagenet.{loader.__name__}",
            lambda *_, **options: made.append(options["device"]),
        )
    for decode in ("cuda", "cpu", "auto"):
        data = simulated(root, "cuda:1", decode=decode)
        data.train_dataloader(), data.val_dataloader(), data.test_dataloader()
    assert made == [torch.device("cuda:1")] * 3 + [None] * 6


def test_decoding_on_a_gpu_that_is_not_there_is_an_error(root, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(ValueError, match=r"decode is cuda.* this machine has none; leave out"):
        data_module(root, decode="cuda").setup("validate")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    with pytest.raises(ValueError, match=r"this run is on cpu; leave out --data.decode"):
        simulated(root, "cpu", decode="cuda").setup("validate")


def test_another_word_for_where_to_decode_is_an_error(root):
    with pytest.raises(ValueError, match="decode is 'gpu', but it must be auto, cpu or cuda"):
        data_module(root, decode="gpu")
