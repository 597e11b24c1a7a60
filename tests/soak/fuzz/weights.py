"""Kinds of files of weights: checkpoints of ours and of others, safetensors, and config.json."""

from __future__ import annotations

import contextlib
import functools
import io
import json
import zlib
from functools import partial
from pathlib import Path
from typing import Any

import torch
from pytorch_lightning import Trainer

from bagnet.model.card import Card, card_of, set_card
from bagnet.model.config import config_of
from bagnet.model.files import read_card
from bagnet.model.network import BagNet
from bagnet.model.weights import load_model, save_weights
from bagnet.run import lease
from bagnet.run.checkpoint_io import AtomicCheckpointIO
from bagnet.run.complete import why_complete
from bagnet.run.folder import Run
from bagnet.run.trained import sizes_of_checkpoint
from bagnet.training.command_line import command
from bagnet.training.command_line.cli import BagNetCLI
from tests.soak.fuzz import archives, arrays, data, mutations, packs, pickles
from tests.soak.fuzz.reading import Kind, Lost, Refused
from tests.trainings import TINY

_LAST = "runs/a/checkpoints/last.ckpt"
_DAMAGE = (mutations.some_bytes, mutations.last_bytes, mutations.first_bytes, archives.zip_table)


def _model() -> torch.nn.Module:
    torch.manual_seed(0)
    model = BagNet(9, num_classes=3, width=1)
    set_card(model, Card("bagnet9", packs.WNIDS, ("a", "b", "c"), 32, 32))
    return model.eval()


def _checkpoint(folder: Path, legacy: bool = False) -> None:
    model = _model()
    card = vars(card_of(model))
    content = {
        "epoch": 1,
        "state_dict": model.state_dict(),
        "card": card,
        "hyper_parameters": {"name": "bagnet9"},
    }
    torch.save(content, folder / "weights.pth", _use_new_zipfile_serialization=not legacy)


def _read(name: str, folder: Path) -> None:
    path = folder / name
    read_card(path)
    sizes_of_checkpoint(path)
    load_model(path, classes=packs.WNIDS)(torch.zeros(1, 3, 32, 32))


def _hub_folder(folder: Path) -> None:
    """A folder as on the Hugging Face Hub."""
    (folder / "hub").mkdir()
    model = _model()
    save_weights(model, folder / "hub/model.safetensors")
    (folder / "hub/config.json").write_text(json.dumps(config_of(model)))


def train(folder: Path, *words: str) -> tuple[int, str]:
    """Run `train.py`, and return its exit code and what it wrote to stderr."""
    error = io.StringIO()
    words = (
        *TINY,
        "--data.root",
        str(folder / "data"),
        "--data.batch_size",
        "2",
        "--model.width",
        "1",
        *words,
    )
    with contextlib.redirect_stderr(error):
        try:
            code = command.main(list(words))
        except SystemExit as end:
            code = int(str(end.code))
    return code, error.getvalue()


def _trained(folder: Path) -> None:
    """A run of two epochs, which has a last checkpoint and a previous one."""
    data.packed(folder)
    runs = ("--runs_dir", str(folder / "runs"), "--trainer.max_epochs", "2")
    code, text = train(folder, "--name", "a", *runs)
    assert code == 0, text


def _resume(name: str, folder: Path, *more: str) -> None:
    """Resume as far as the first batch."""
    lease.git_commit = lambda: "0" * 40  # without a process
    command.remove_leftovers_soon = lambda: None  # which are outside of the folder
    with parsed_once():
        code, text = train(
            folder,
            "--trainer.max_epochs",
            "3",
            "--trainer.limit_train_batches",
            "0",
            "--trainer.limit_val_batches",
            "0",
            "--trainer.logger",
            "false",
            "--name",
            name,
            *more,
        )
    if code == 2:
        raise Refused(text)
    assert code == 0, code


def _resume_file(folder: Path) -> None:
    """Resume from a file that somebody gives; most are only read, which costs a tenth."""
    path = Run("a", folder / "runs").checkpoint_to_resume(str(folder / _LAST))
    why_complete(path, _trainer())
    AtomicCheckpointIO().load_checkpoint(path)
    if _is_one_in(40, folder):
        _resume("b", folder, "--runs_dir", str(folder / "out"), "--resume", str(folder / _LAST))


def _resume_run(folder: Path) -> None:
    """Resume a run whose last checkpoint is damaged: there is the previous one."""
    try:
        path = Run("a", folder / "runs").checkpoint_to_resume("auto")
        why_complete(path, _trainer())
        own = AtomicCheckpointIO().load_checkpoint(path)["state_dict"]
        sound = torch.load(folder.with_suffix(".sound"), weights_only=True)["state_dict"]
        if path.name == "last.ckpt" and any(not own[key].equal(sound[key]) for key in sound):
            raise Lost("the run is resumed with other weights")
        if _is_one_in(40, folder):
            _resume("a", folder, "--runs_dir", str(folder / "runs"), "--resume", "auto")
    except (Refused, ValueError) as error:
        raise Lost(f"the run is not resumed from the previous checkpoint: {error}") from error


@functools.cache
def _trainer() -> Trainer:
    return Trainer(max_epochs=9, accelerator="cpu", logger=False, enable_checkpointing=False)


def _is_one_in(count: int, folder: Path) -> bool:
    return zlib.crc32((folder / _LAST).read_bytes()) % count == 0


@contextlib.contextmanager
def parsed_once():
    """Make the parser of the command line once: that takes longer than all else."""
    setup = BagNetCLI.setup_parser

    def kept(self: Any, *arguments: Any) -> None:
        if not hasattr(BagNetCLI, "_kept"):
            setup(self, *arguments)
            BagNetCLI._kept = self.__dict__
        else:
            self.__dict__ = BagNetCLI._kept | self.__dict__

    BagNetCLI.setup_parser = kept
    try:
        yield
    finally:
        BagNetCLI.setup_parser = setup


def _kinds() -> dict[str, Kind]:
    weights, files = "checkpoints: weights", "safetensors, config.json"
    resumed = "checkpoints: resumed"
    zips = (
        archives.zip_parts(pickles.opcodes),
        pickles.contents,
        pickles.contents,
        mutations.some_bytes,
        archives.zip_table,
    )
    header = (
        arrays.safetensors_header,
        arrays.safetensors_header,
        mutations.first_bytes,
        mutations.some_bytes,
    )
    json_values = (mutations.json_values, mutations.json_values, mutations.some_bytes)
    hub = ("hub/model.safetensors",)
    return {
        "checkpoint": Kind(
            weights, "weights.pth", _checkpoint, zips, partial(_read, "weights.pth")
        ),
        "legacy": Kind(
            weights,
            "weights.pth",
            partial(_checkpoint, legacy=True),
            (pickles.opcodes, mutations.some_bytes, mutations.first_bytes),
            partial(_read, "weights.pth"),
        ),
        "safetensors": Kind(files, *hub, _hub_folder, header, partial(_read, *hub)),
        "config-json": Kind(
            files, "hub/config.json", _hub_folder, json_values, partial(_read, *hub), hub
        ),
        "resume-file": Kind(resumed, _LAST, _trained, zips, _resume_file),
        "resume-run": Kind(resumed, _LAST, _trained, _DAMAGE, _resume_run),
    }


KINDS = _kinds()
