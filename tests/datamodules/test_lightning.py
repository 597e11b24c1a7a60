"""The data module under Lightning: exact epochs, and an exact resume after a kill."""

import pytest
import torch
from pytorch_lightning import Callback, LightningModule, Trainer
from pytorch_lightning.callbacks import ModelCheckpoint

from tests.datamodules.splits import BATCH, STEPS, datamodule


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
