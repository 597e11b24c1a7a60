"""The data module: what it says about the data, its errors, and an exact resume under Lightning."""

import warnings
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from pytorch_lightning import Callback, LightningModule, Trainer
from pytorch_lightning.callbacks import ModelCheckpoint

from datamodules.imagenet import ImageNetDataModule
from tests.datamodules.loaders import image_file, write_data

CLASSES = ("n01", "n02", "n03")
NAMES = ("tench", "goldfish", "shark")
TRAIN, VAL = (17, 20, 8), (7, 4)
BATCH, STEPS = 8, 5


def write_split(folder, counts, classes=CLASSES, names=NAMES):
    write_data(folder, counts, classes, names, plain_image)


def plain_image(number):
    return image_file(np.full((14, 18, 3), (number * 4, 0, 99), np.uint8))


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    root = tmp_path_factory.mktemp("packed")
    write_split(root / "train", TRAIN)
    write_split(root / "val", VAL)
    return root


def datamodule(root, **options):
    defaults = {"batch_size": BATCH, "workers": 0, "image_size": 8, "resize_size": 10}
    return ImageNetDataModule(str(root), **{**defaults, **options})


def test_it_knows_the_data_without_a_trainer(root):
    data = datamodule(root)
    assert data.num_classes == 3
    assert data.classes == CLASSES
    assert data.class_names == NAMES
    assert data.train_manifest.num_samples == 45
    assert data.val_manifest.num_samples == 11
    assert len(data.train_dataloader()) == STEPS


def test_batches_have_the_agreed_form(root):
    data = datamodule(root)
    for loader in (data.train_dataloader(), data.val_dataloader(), data.test_dataloader()):
        images, labels, sample_ids = next(iter(loader))
        assert images.shape[1:] == (3, 8, 8)
        assert images.dtype == torch.uint8
        assert images.is_contiguous(memory_format=torch.channels_last)
        assert labels.dtype == sample_ids.dtype == torch.int64
        assert torch.equal(labels, sample_ids % 3)


def test_accumulation_comes_from_the_trainer(root):
    data = simulated(root, rank=0, world_size=1)
    data.trainer.accumulate_grad_batches = 2
    assert len(data.train_dataloader()) == 4


def simulated(root, rank, world_size, **options):
    """The data module of one rank among many."""
    data = datamodule(root, **options)
    data.trainer = SimpleNamespace(
        global_rank=rank,
        world_size=world_size,
        accumulate_grad_batches=1,
        strategy=SimpleNamespace(root_device=torch.device("cpu")),
    )
    return data


def test_ranks_come_from_the_trainer_and_not_from_the_environment(root, monkeypatch):
    monkeypatch.setenv("RANK", "0")
    monkeypatch.setenv("WORLD_SIZE", "1")
    alone = [set(ids.tolist()) for *_, ids in datamodule(root).train_dataloader()]
    ranks = [simulated(root, rank, 2) for rank in range(2)]
    parts = [[set(ids.tolist()) for *_, ids in data.train_dataloader()] for data in ranks]
    assert [a | b for a, b in zip(*parts, strict=True)] == alone
    assert all(len(part) == BATCH // 2 for part in parts[0] + parts[1])


def test_evaluation_takes_any_number_of_ranks(root):
    ids = []
    for rank in range(3):  # does not divide the batch of 8
        data = simulated(root, rank, 3)
        data.setup("validate")
        ids += [i for *_, batch in data.val_dataloader() for i in batch.tolist()]
    assert ids == list(range(sum(VAL)))


@pytest.mark.parametrize("reason", ["there is no C compiler", None])
def test_one_line_says_why_images_are_decoded_whole(root, monkeypatch, caplog, reason):
    monkeypatch.setattr("datamodules.imagenet.why_not", lambda: reason)
    datamodule(root).setup("validate")
    assert caplog.messages == [
        f"images are decoded whole, although only parts are used: {why}" for why in [reason] if why
    ]


def test_by_default_there_are_no_more_workers_than_cpus(root, monkeypatch):
    for cpus, expected in ((1, 1), (3, 3), (96, 4)):
        monkeypatch.setattr("datamodules.imagenet.available_cpus", lambda cpus=cpus: cpus)
        assert datamodule(root, workers=None).workers == expected
    monkeypatch.undo()
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # torch warns of more workers than CPUs
        data = datamodule(root, workers=None)
        next(iter(data.train_dataloader()))
    data.teardown("fit")


def test_only_training_needs_training_data_and_a_batch_that_the_ranks_divide(root, tmp_path):
    (tmp_path / "val").symlink_to(root / "val")
    data = simulated(tmp_path, 0, 3)
    data.setup("validate")
    assert data.num_classes == 3
    with pytest.raises(
        ValueError, match=r"has no folder train.*datamodules.pack --help.*make demo"
    ):
        data.setup("fit")
    with pytest.raises(ValueError, match=r"batch of 8 .* by 3 ranks.* such as 6 or 9"):
        simulated(root, 0, 3).setup("fit")


def test_missing_data_is_an_error_with_the_remedy(tmp_path):
    with pytest.raises(ValueError, match=r"nowhere does not exist; pack .*`make demo`"):
        _ = datamodule(tmp_path / "nowhere").num_classes
    (tmp_path / "val").mkdir()
    with pytest.raises(ValueError, match=r"val has no manifest.json.*datamodules\.pack"):
        datamodule(tmp_path).setup("validate")


def test_splits_with_different_classes_are_an_error(root, tmp_path):
    (tmp_path / "train").symlink_to(root / "train")
    write_split(tmp_path / "val", VAL, (*CLASSES, "n04"), (*NAMES, "cat"))
    with pytest.raises(ValueError, match="the 3 training classes and the 4 validation classes"):
        datamodule(tmp_path).setup("fit")


@pytest.mark.parametrize(
    ("name", "value"),
    [("batch_size", 0), ("window", 0), ("streams", 0), ("seed", -1), ("max_unreadable", 1.5)],
)
def test_a_value_out_of_its_range_is_an_error(root, name, value):
    with pytest.raises(ValueError, match=f"{name} is {value}"):
        datamodule(root, **{name: value})


def test_a_training_set_smaller_than_a_batch_is_an_error(root):
    with pytest.raises(ValueError, match=r"has 45 training samples.* takes 64"):
        datamodule(root, batch_size=64).train_dataloader()


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
        self.log("loss", self.training_step(batch, _))

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.1, momentum=0.9)


class Record(Callback):
    """Records the batches; saves after some batch and kills the run after another."""

    def __init__(self, save_after=None, kill_after=None, path=None):
        self.save_after, self.kill_after, self.path = save_after, kill_after, path
        self.steps = []
        self.validated = []

    def on_train_batch_end(self, trainer, module, outputs, batch, batch_idx):
        images, _, ids = batch
        self.steps.append((trainer.current_epoch, batch_idx, ids.tolist(), images.sum().item()))
        if trainer.global_step == self.save_after:
            trainer.save_checkpoint(self.path)
        if trainer.global_step == self.kill_after:
            raise KilledError

    def on_validation_batch_end(self, trainer, module, outputs, batch, batch_idx):
        self.validated += batch[2].tolist()


class KilledError(Exception):
    pass


def fit(root, tmp_path, *callbacks, ckpt_path=None, workers=0, **options):
    torch.manual_seed(0)
    model = Mean()
    trainer = Trainer(
        accelerator="cpu",
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        default_root_dir=tmp_path,
        callbacks=list(callbacks),
        **{"max_epochs": 3, "enable_checkpointing": False, **options},
    )
    trainer.fit(model, datamodule=datamodule(root, workers=workers), ckpt_path=ckpt_path)
    return model


@pytest.fixture(scope="module")
def reference(root, tmp_path_factory):
    """Three epochs without an interruption: what was read, and the weights at the end."""
    record = Record()
    model = fit(root, tmp_path_factory.mktemp("run"), record)
    return record, model


def test_lightning_trains_on_exact_epochs_and_validates_on_everything(reference):
    record, _ = reference
    assert [(epoch, index) for epoch, index, *_ in record.steps] == [
        (epoch, index) for epoch in range(3) for index in range(STEPS)
    ]
    epochs = [
        [i for epoch, _, ids, _ in record.steps if epoch == number for i in ids]
        for number in range(3)
    ]
    assert all(len(set(ids)) == BATCH * STEPS for ids in epochs)
    assert len({tuple(ids) for ids in epochs}) == 3
    assert record.validated[-11:] == list(range(11))


@pytest.mark.parametrize("by_steps", [False, True])
@pytest.mark.parametrize("step", [1, 4, STEPS, STEPS + 1, 2 * STEPS + 3])
def test_a_killed_run_resumes_with_exactly_the_batches_left(
    root, tmp_path, reference, step, by_steps
):
    path = tmp_path / "killed.ckpt"
    limit = {"max_epochs": -1, "max_steps": 3 * STEPS} if by_steps else {"max_epochs": 3}
    with pytest.raises(KilledError):  # two batches after the checkpoint, or at once
        fit(root, tmp_path, Record(step, min(step + 2, 3 * STEPS), path), **limit)
    resumed = Record()
    model = fit(root, tmp_path, resumed, ckpt_path=path, **limit)
    assert resumed.steps == reference[0].steps[step:]
    for name, value in reference[1].state_dict().items():
        assert torch.equal(model.state_dict()[name], value), name


def test_a_killed_run_with_workers_resumes_with_exactly_the_batches_left(root, tmp_path, reference):
    path = tmp_path / "killed.ckpt"
    with pytest.raises(KilledError):
        fit(root, tmp_path, Record(7, 8, path), workers=2)
    resumed = Record()
    fit(root, tmp_path, resumed, ckpt_path=path, workers=2)
    assert resumed.steps == reference[0].steps[7:]


def test_workers_end_with_the_run_even_if_it_fails(root, tmp_path):
    fit(root, tmp_path, workers=1, max_epochs=1)
    assert not torch.multiprocessing.active_children()
    with pytest.raises(KilledError):
        fit(root, tmp_path, Record(kill_after=STEPS + 2), workers=1)
    assert not torch.multiprocessing.active_children()


@pytest.mark.filterwarnings("ignore:Be aware that when using `ckpt_path`")
@pytest.mark.parametrize("on_train_epoch_end", [True, False])
def test_a_run_resumes_from_the_checkpoint_of_an_epoch(
    root, tmp_path, reference, on_train_epoch_end
):
    save = ModelCheckpoint(
        tmp_path, "{epoch}", save_top_k=-1, save_on_train_epoch_end=on_train_epoch_end
    )
    fit(root, tmp_path, save, max_epochs=2, enable_checkpointing=True)
    for epoch in range(2):
        resumed = Record()
        fit(root, tmp_path, resumed, ckpt_path=tmp_path / f"epoch={epoch}.ckpt")
        assert resumed.steps == reference[0].steps[(epoch + 1) * STEPS :]


def test_a_run_with_another_batch_size_cannot_resume(root, tmp_path):
    path = tmp_path / "killed.ckpt"
    with pytest.raises(KilledError):
        fit(root, tmp_path, Record(2, 2, path))
    trainer = Trainer(accelerator="cpu", logger=False, enable_checkpointing=False, max_epochs=1)
    with pytest.raises(ValueError, match=r"cannot resume: .* global_batch 8 and this run has 4"):
        trainer.fit(Mean(), datamodule=datamodule(root, batch_size=4), ckpt_path=path)


def test_a_limited_epoch_is_followed_by_the_next_one(root, tmp_path, reference):
    record = Record()
    fit(root, tmp_path, record, limit_train_batches=2)
    expected = [step for step in reference[0].steps if step[1] < 2]
    assert record.steps == expected


def test_batches_of_chosen_samples_are_those_of_the_loaders(shards):
    data = ImageNetDataModule(str(shards), batch_size=53, workers=0, image_size=8, resize_size=9)
    images, labels, _ = next(iter(data.val_dataloader()))
    chosen = np.array([30, 2])
    (some, some_labels, sample_ids), unreadable = data.batches("val")[(0, chosen)]
    assert torch.equal(some, images[chosen])
    assert torch.equal(some_labels, labels[chosen])
    assert (sample_ids.tolist(), unreadable) == ([30, 2], ())
    (crops, _, _), _ = data.batches("train")[(0, chosen)]
    assert crops.shape == (2, 3, 8, 8)
    assert not torch.equal(crops, data.batches("train")[(1, chosen)][0][0])  # at random, by epoch
