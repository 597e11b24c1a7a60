"""W&B's variables work as usual, and one that W&B refuses does not end the training."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import wandb

from bagnet.run.folder import Run
from bagnet.run.lease import Lease
from bagnet.run.loggers.csv_table import CSVTable
from bagnet.run.loggers.wandb import ResumableWandbLogger
from bagnet.run.loggers.wandb_records import WandbRecords
from bagnet.run.loggers.wandb_start import location
from tests.slurm.runs import records
from tests.trainings import train


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def logger_of(run: Run, resuming: bool = False) -> ResumableWandbLogger:
    lease = Lease(run.starts)
    return ResumableWandbLogger(run, resuming, CSVTable(run.metrics, lease), lease)


def settings() -> wandb.Settings:
    return logger_of(Run("mine")).experiment.settings


def test_defaults_are_for_batch_jobs():
    ours = settings()
    assert (ours.project, ours.run_name) == ("bagnet", "mine")
    assert ours.run_id.startswith("mine-")
    assert (ours.console, ours.silent, ours.resume) == ("off", True, "allow")
    assert (ours.init_timeout, ours.finish_timeout) == (30, 60)


VARIABLES = [
    ("WANDB_PROJECT", "mine", "project", "mine"),
    ("WANDB_ENTITY", "team", "entity", "team"),
    ("WANDB_NAME", "A good name", "run_name", "A good name"),
    ("WANDB_RUN_ID", "chosen", "run_id", "chosen"),
    ("WANDB_RUN_GROUP", "sweep-7", "run_group", "sweep-7"),
    ("WANDB_JOB_TYPE", "train", "run_job_type", "train"),
    ("WANDB_NOTES", "Why?", "run_notes", "Why?"),
    ("WANDB_TAGS", "a,b", "run_tags", ("a", "b")),
    ("WANDB_RESUME", "must", "resume", "must"),
    ("WANDB_SILENT", "false", "silent", False),
    ("WANDB_CONSOLE", "wrap", "console", "wrap"),
    ("WANDB_INIT_TIMEOUT", "5", "init_timeout", 5),
    ("WANDB_FINISH_TIMEOUT", "5", "finish_timeout", 5),
    ("WANDB_SWEEP_ID", "abc", "sweep_id", "abc"),
]


@pytest.mark.parametrize(("variable", "value", "setting", "meaning"), VARIABLES)
def test_a_variable_comes_before_our_default(monkeypatch, variable, value, setting, meaning):
    monkeypatch.setenv(variable, value)
    assert getattr(settings(), setting) == meaning


@pytest.mark.parametrize(
    ("variable", "value", "said"),
    [
        ("WANDB_MODE", "", "WANDB_MODE: Input should be 'online', 'offline'"),
        ("WANDB_MODE", "OFFLINE", "WANDB_MODE: Input should be 'online', 'offline'"),
        ("WANDB_INIT_TIMEOUT", "abc", "WANDB_INIT_TIMEOUT: Input should be a valid number"),
        ("WANDB_SILENT", "maybe", "WANDB_SILENT: Input should be a valid boolean"),
        ("WANDB_CONSOLE", "bogus", "WANDB_CONSOLE: Input should be 'auto', 'off'"),
        ("WANDB_RESUME", "perhaps", "WANDB_RESUME: Input should be 'allow'"),
        ("WANDB_TAGS", "", "WANDB_TAGS: Tag at index 0 is empty"),
        ("WANDB_TAGS", "x" * 65, "is 65 characters"),
        ("WANDB_PROJECT", "a/b", "Invalid project name 'a/b'"),
        ("WANDB_PROJECT", "x" * 129, "exceeded 128 characters"),
        ("WANDB_RUN_ID", "a/b", "Run ID cannot contain the characters"),
        ("WANDB_SWEEP_ID", "", "Sweep ID cannot be empty"),
        ("WANDB_API_KEY", " key ", "API key cannot start or end with whitespace"),
        ("WANDB_BASE_URL", "me:secret", "WANDB_BASE_URL: "),
        ("WANDB_HTTPS_PROXY", "ftp://me:secret@host", "WANDB_HTTPS_PROXY: "),
        ("WANDB_CONFIG_PATHS", "file.yaml", "WANDB_CONFIG_PATHS: "),
        ("WANDB_FORK_FROM", "nonsense", "WANDB_FORK_FROM: "),
    ],
)
def test_a_variable_that_wandb_refuses_is_named_in_one_line(
    monkeypatch, capsys, variable, value, said
):
    monkeypatch.setenv(variable, value)
    use(Run("mine"))
    (line,) = capsys.readouterr().out.splitlines()
    assert line.startswith("W&B has failed (")
    assert said in line
    assert line.endswith("continues without it, and the next start of the run sends the rest")
    assert "secret" not in line


def use(run: Run) -> None:
    """Do with W&B what a training does."""
    logger = logger_of(run)
    logger.log_hyperparams({"model": {"width": 8}})
    location(logger.experiment)
    logger.log_metrics({"val/top1": 0.5}, step=0)
    logger.log_image("val/evidence", [], step=0)
    logger.log_metrics({"val/top1": 0.6}, step=1)
    logger.finalize("success")


def test_no_variable_of_wandb_ends_the_training(monkeypatch, capsys):
    for field in wandb.Settings.model_fields:
        with monkeypatch.context() as patch:
            patch.setenv(f"WANDB_{field.upper()}", "nonsense")
            use(Run("mine"))
            wandb.teardown()
    assert "WANDB_MODE: " in capsys.readouterr().out


def test_a_training_ends_well_though_wandb_refuses_a_variable(shards, monkeypatch, capsys):
    monkeypatch.setenv("WANDB_MODE", "OFFLINE")
    assert train(shards, "--trainer.max_epochs", "1") == 0
    assert [line[:50] for line in capsys.readouterr().out.splitlines() if "W&B" in line] == [
        "W&B has failed (WANDB_MODE: Input should be 'onlin"
    ]


def test_a_logger_of_the_users_choice_is_refused_in_one_line(shards, monkeypatch, capsys):
    monkeypatch.setenv("WANDB_MODE", "OFFLINE")
    assert train(shards, "--trainer.logger", "WandbLogger") == 2
    err = capsys.readouterr().err
    assert err.splitlines()[-1].startswith("error: W&B says: WANDB_MODE: Input should be 'online'")
    assert "Traceback" not in err


def test_an_offline_run_is_where_and_what_the_variables_say(folder, monkeypatch):
    for name, value in {
        "WANDB_MODE": "offline",
        "WANDB_DIR": "elsewhere",
        "WANDB_NAME": "A good name",
        "WANDB_RUN_ID": "chosen",
        "WANDB_SWEEP_ID": "abc",
        "WANDB_PROJECT": "patches",
        "WANDB_ENTITY": "team",
        "WANDB_RUN_GROUP": "rates",
        "WANDB_JOB_TYPE": "train",
        "WANDB_TAGS": "a,b",
        "WANDB_NOTES": "Why?",
    }.items():
        monkeypatch.setenv(name, value)
    run = Run("mine")
    use(run)
    (file,) = folder.glob("elsewhere/wandb/offline-run-*/run-chosen.wandb")
    runs = [record.run for record in records(file) if record.HasField("run")]
    first = runs[0]
    assert (first.run_id, first.display_name, first.sweep_id) == ("chosen", "A good name", "abc")
    assert (first.project, first.entity, first.run_group) == ("patches", "team", "rates")
    assert (first.job_type, [*first.tags], first.notes) == ("train", ["a", "b"], "Why?")
    assert WandbRecords(run, resuming=True).id() == "chosen"
    assert WandbRecords(run, resuming=True).last_step() == 1


def test_the_page_names_the_variables_that_are_tested():
    page = (Path(__file__).parents[3] / "docs" / "wandb.md").read_text()
    table = page.partition("| variable |")[2].partition("\n\n")[0]
    named = set(re.findall(r"`(WANDB_\w+)`", table))
    assert named == {variable for variable, *_ in VARIABLES if variable != "WANDB_SWEEP_ID"} | {
        "WANDB_MODE",
        "WANDB_DIR",
    }


def test_a_resumed_run_keeps_an_id_that_was_chosen_before(monkeypatch):
    run = Run("mine")
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_RUN_ID", "chosen")
    use(run)
    wandb.teardown()
    monkeypatch.delenv("WANDB_RUN_ID")
    assert logger_of(run, resuming=True).experiment.id == "chosen"
