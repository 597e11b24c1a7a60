"""How LightningCLI answers wrong words, and where it writes the resolved configuration."""

from __future__ import annotations

import re
import sys
from textwrap import shorten
from typing import Any, NoReturn

import yaml
from jsonargparse import get_loader, set_loader
from pytorch_lightning import LightningModule, Trainer
from pytorch_lightning.cli import LightningArgumentParser, SaveConfigCallback

from bagnet.run.folder import Run
from bagnet.training.command_line.flags import program
from datamodules.common.commands import one_line
from datamodules.common.files import write_text
from datamodules.common.yaml_texts import check_yaml
from datamodules.remote.urls import redacted_settings, redacted_text


class Parser(LightningArgumentParser):
    """Answers a wrong command with one line that says what is wrong, not with a page of usage."""

    def error(self, message: str, ex: Exception | None = None) -> NoReturn:
        line = re.sub(r"(?:--)?\b(fit|validate|test)\.", "--", redacted_text(one_line(message)))
        line = line.replace("Problems parsing config", "--config cannot be read")
        print(f"error: {line}; see {program()} fit --help", file=sys.stderr)
        sys.exit(2)


def why_not_made(message: str) -> str | None:
    """Why a callback or a logger cannot be made, of which jsonargparse says many lines.

    Returns:
        One line; None if the message is about something else.
    """
    reason = re.search(r"given class_path '(?P<name>.*)':\s*(?P<cause>.*)", message) or re.search(
        r"Errors:\s*- (?P<cause>.*)[\s\S]*class_path='(?P<name>[^']*)'", message
    )
    return reason and f"{reason['name']}: {reason['cause']}"


class SaveConfig(SaveConfigCallback):
    """Writes config.yaml into the run's folder, and gives the configuration to the loggers."""

    def __init__(self, parser: LightningArgumentParser, config: Any, run: Run) -> None:
        super().__init__(parser, config, save_to_log_dir=False)
        self.run = run

    def save_config(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        public = redacted_settings(self.config)
        write_text(self.parser.dump(public, skip_unset=False), self.run.config)
        config = public.as_dict()
        for logger in trainer.loggers:
            try:
                logger.log_hyperparams(config)
            except Exception as error:  # MLflow refuses other settings for a run that it has
                name, reason = type(logger).__name__, shorten(str(error), 300)
                print(
                    f"{name} does not take the settings ({reason}); they are in {self.run.config}"
                )


def bound_yaml() -> None:
    """Make jsonargparse refuse YAML that is beyond our bounds, once for the process."""
    load = get_loader("yaml")
    if getattr(load, "__name__", "") == "bounded":
        return

    def bounded(text: str) -> Any:
        check_yaml(text)
        return load(text)

    set_loader("yaml", bounded, (yaml.YAMLError, ValueError))
