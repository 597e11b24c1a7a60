"""Every switch of Lightning's Trainer works, or is refused in one line."""

from __future__ import annotations

import inspect
import re
from pathlib import Path

import pytest
import yaml
from pytorch_lightning import Trainer
from pytorch_lightning.callbacks import GradientAccumulationScheduler

from bagnet.training.command_line.command import main
from bagnet.training.command_line.trainer import check_settings
from tests.trainings import TINY, table, train

ALWAYS = ("--trainer.max_epochs", "1", "--trainer.limit_train_batches", "2", "--name", "x")

WORK = {
    "accelerator": ["cpu"],
    "strategy": ["auto"],
    "devices": ["1"],
    "num_nodes": ["1"],
    "precision": ["bf16-mixed"],
    "logger": ["false", "true", "CSVLogger --trainer.logger.save_dir csv"],
    "callbacks": [
        "RichProgressBar --trainer.enable_progress_bar true",
        "LearningRateMonitor",
        "EarlyStopping --trainer.callbacks.monitor val/top1",
        "ModelCheckpoint --trainer.callbacks.dirpath theirs",
    ],
    "fast_dev_run": ["true", "2"],
    "max_epochs": ["0", "1"],
    "min_epochs": ["1"],
    "max_steps": ["0", "1"],
    "min_steps": ["2"],
    "max_time": ["00:01:00:00"],
    "limit_train_batches": ["0", "0.2"],
    "limit_val_batches": ["0", "1"],
    "limit_test_batches": ["0"],
    "limit_predict_batches": ["0"],
    "val_check_interval": ["1", "0.5", "00:00:00:01"],
    "check_val_every_n_epoch": ["2", "null --trainer.val_check_interval 1"],
    "num_sanity_val_steps": ["0", "-1"],
    "log_every_n_steps": ["1", "1000"],
    "enable_checkpointing": ["true"],
    "enable_progress_bar": ["true", "false"],
    "enable_model_summary": ["true"],
    "accumulate_grad_batches": ["2"],
    "gradient_clip_val": ["1"],
    "gradient_clip_algorithm": ["value --trainer.gradient_clip_val 1"],
    "deterministic": ["true", "warn"],
    "benchmark": ["true"],
    "inference_mode": ["false"],
    "use_distributed_sampler": ["true"],
    "profiler": ["simple", "pytorch"],
    "detect_anomaly": ["true"],
    "plugins": ["LightningEnvironment"],
    "sync_batchnorm": ["true"],
    "default_root_dir": ["elsewhere"],
    "enable_autolog_hparams": ["false"],
    "model_registry": ["some"],
}
"""Values of each switch, with further flags; a training that has one ends well."""

REFUSED = {
    "accelerator": {"tpu": "torch_xla", "abacus": "abacus"},
    "strategy": {"fsdp": "choose auto, ddp"},
    "devices": {"0": "devices", "many": "devices"},
    "num_nodes": {"0": "num_nodes is 0", "2": "srun or torchrun"},
    "logger": {"MLFlowLogger": "pip install -U 'mlflow", "TensorBoardLogger": "save_dir"},
    "callbacks": {
        "StochasticWeightAveraging --trainer.callbacks.swa_lrs 0.1": "learning rate is a function",
        "LearningRateFinder": "docs/library.md",
        "BatchSizeFinder": "fast_dev_run",
        "Timer": "use --trainer.max_time",
        "EarlyStopping --trainer.callbacks.monitor val/typo": "`val/typo` which is not available",
    },
    "max_time": {"soon": "DD:HH:MM:SS"},
    "limit_train_batches": {"1.5": "limit_train_batches"},
    "val_check_interval": {"1000": "val_check_interval"},
    "log_every_n_steps": {"0": "log_every_n_steps is 0"},
    "enable_checkpointing": {"false": "fast_dev_run"},
    "gradient_clip_algorithm": {"haircut": "haircut"},
    "overfit_batches": {"2": "other batches"},
    "profiler": {"guess": "profiler"},
    "barebones": {"true": "bagnet.bench train"},
    "reload_dataloaders_every_n_epochs": {"1": "leave it out"},
}
"""Values of each switch that get one line, which has these words."""


@pytest.fixture(autouse=True)
def working_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_every_switch_has_been_decided_about():
    switches = set(inspect.signature(Trainer).parameters)
    assert switches == WORK.keys() | REFUSED.keys()


@pytest.mark.parametrize(
    ("switch", "value"), [(switch, value) for switch, values in WORK.items() for value in values]
)
def test_what_works_says_only_where_something_is(shards, capsys, switch, value):
    assert train(shards, *ALWAYS, f"--trainer.{switch}", *value.split()) == 0
    out, err = capsys.readouterr()
    assert not re.search("Traceback|Warning|Exception ignored", out + err)
    for path in re.findall(r"^(?:checkpoints|metrics) +(\S+)$", out, re.MULTILINE):
        assert Path(path).exists()
    assert not Path("config.yaml").exists()
    if switch == "fast_dev_run":
        assert not Path("runs").exists()
        return
    config = yaml.safe_load(Path("runs/x/config.yaml").read_text())
    assert switch in config["trainer"]
    if value != "0" or switch not in ("limit_train_batches", "max_epochs", "max_steps"):
        assert table("x")
        assert Path("runs/x/checkpoints/last.ckpt").exists()


@pytest.mark.parametrize(
    ("switch", "value", "words"),
    [(switch, *case) for switch, cases in REFUSED.items() for case in cases.items()],
)
def test_what_does_not_work_is_one_line(shards, capsys, switch, value, words):
    try:
        code = train(shards, *ALWAYS, f"--trainer.{switch}", *value.split())
    except SystemExit as exit_:
        code = exit_.code
    assert code == 2
    (line,) = [line for line in capsys.readouterr().err.splitlines() if "rror" in line]
    assert line.startswith("error: ")
    assert words in line
    assert not list(Path().rglob("*.ckpt"))


def test_accumulation_stays_the_same_for_the_whole_run():
    config = {name: p.default for name, p in inspect.signature(Trainer).parameters.items()}
    check_settings(config, [])
    with pytest.raises(ValueError, match="--trainer.callbacks Gradient.*stays the same"):
        check_settings(config, [GradientAccumulationScheduler({1: 2})])


def test_a_few_batches_may_be_tried_beside_a_run(shards, capsys):
    assert train(shards, *ALWAYS) == 0
    before = {path: path.stat().st_mtime_ns for path in Path("runs").rglob("*")}
    for resume in ([], ["--resume", "auto"]):
        assert train(shards, *ALWAYS, "--trainer.fast_dev_run", "true", *resume) == 0
        assert "validation   top-1" in capsys.readouterr().out
    assert {path: path.stat().st_mtime_ns for path in Path("runs").rglob("*")} == before


def test_a_run_without_validation_is_validated_by_its_last_checkpoint(shards, capsys):
    assert train(shards, *ALWAYS, "--trainer.limit_val_batches", "0") == 0
    capsys.readouterr()
    assert main(["validate", "--name", "x", *TINY[-4:]]) == 0
    out = capsys.readouterr().out
    assert "weights      runs/x/checkpoints/last.ckpt (there is no best.ckpt, because" in out
    assert "validation   top-1" in out


def test_an_evaluation_of_nothing_is_one_line(shards, capsys):
    assert train(shards, *ALWAYS) == 0
    for command, stage in (("validate", "val"), ("test", "test")):
        limit = f"--trainer.limit_{stage}_batches"
        assert main([command, "--name", "x", *TINY[-4:], limit, "0"]) == 2
        assert f"error: nothing is left to evaluate: {limit} is 0" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("limit", "message"),
    [
        (
            ["--trainer.max_time", "00:00:00:00"],
            r"0:00:0\d of 0:00:00 are over; raise --trainer.max_time",
        ),
        (["--trainer.max_steps", "1"], r"1 of 1 steps are done; raise --trainer.max_steps"),
    ],
)
def test_a_run_that_has_reached_its_limit_says_so(shards, capsys, limit, message):
    flags = ("--name", "x", "--trainer.max_epochs", "2")
    assert train(shards, *flags, "--trainer.max_steps", "1") == 0
    capsys.readouterr()
    assert train(shards, *flags, *limit, "--resume", "auto") == 0
    assert re.search(f"runs/x is complete: {message}", capsys.readouterr().out)


def test_a_table_is_kept_beside_other_loggers(shards):
    values = (
        "CSVLogger",
        "--trainer.logger.save_dir",
        "theirs",
        "--trainer.log_every_n_steps",
        "1",
    )
    assert train(shards, *ALWAYS, "--trainer.logger", *values) == 0
    (theirs,) = Path("theirs").rglob("metrics.csv")
    assert "val/top1" in theirs.read_text()
    assert table("x")[-1]["val/top1"]
    assert not list(theirs.parent.glob("config.yaml"))
