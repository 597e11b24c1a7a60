"""A file that is no checkpoint of such a training is one line with its name."""

from __future__ import annotations

import pytest
import torch
from pytorch_lightning import Trainer

from bagnet.run.checkpoint_io import AtomicCheckpointIO
from bagnet.run.complete import Restored, why_complete
from bagnet.run.folder import Run
from tests.bagnet.run.fitting import fit


@pytest.fixture
def trainer():
    return Trainer(max_epochs=1, accelerator="cpu", logger=False, enable_checkpointing=False)


def itself():
    content = {"state_dict": {}}
    content["again"] = content
    return content


def test_an_epoch_that_is_done_completes_a_run(tmp_path, trainer):
    loops = {"fit_loop": {"epoch_progress": {"current": {"processed": 1}}}}
    torch.save({"loops": loops, "global_step": 3, "callbacks": {}}, tmp_path / "a.ckpt")
    assert why_complete(tmp_path / "a.ckpt", trainer) == "1 of 1 epochs are done"


@pytest.mark.parametrize(
    "content",
    [
        {"state_dict": {"a": torch.ones(1)}},
        {"loops": 5},
        {"loops": {"fit_loop": {"epoch_progress": {"current": {"processed": float("nan")}}}}},
        [1],
    ],
)
def test_weights_alone_are_no_state_of_a_training(tmp_path, trainer, content):
    torch.save(content, tmp_path / "weights.pth")
    with pytest.raises(ValueError, match=r"^\S+weights\.pth .*not a dict|weights\.pth cannot be"):
        why_complete(tmp_path / "weights.pth", trainer)


@pytest.mark.parametrize("content", [itself(), {"a": torch.empty(3, device="meta")}])
def test_a_checkpoint_that_has_no_end_or_no_values_is_refused(tmp_path, content):
    torch.save(content, tmp_path / "a.ckpt")
    with pytest.raises(ValueError, match=r"a\.ckpt is not a checkpoint of ours"):
        AtomicCheckpointIO().load_checkpoint(tmp_path / "a.ckpt")


def other_weights(content):
    content["state_dict"].popitem()


def other_optimizer(content):
    content["optimizer_states"][0]["param_groups"] = []


def other_loops(content):
    content["loops"]["fit_loop"]["epoch_progress"]["total"] = 3


@pytest.mark.parametrize("change", [other_weights, other_optimizer, other_loops])
def test_what_lightning_cannot_restore_is_one_line(tmp_path, change):
    run = Run("mine", tmp_path)
    fit(run, minutes=30, max_epochs=1)
    content = torch.load(run.last, weights_only=True)
    change(content)
    other = tmp_path / "other.ckpt"
    torch.save(content, other)
    with pytest.raises(ValueError, match=r"^\S+other\.ckpt cannot be resumed from \("):
        fit(Run("new", tmp_path), 30, Restored(other), resume=other, max_epochs=2)
