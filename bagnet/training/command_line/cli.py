"""LightningCLI with our callbacks, loggers and defaults: what `fit`, `validate` and `test` do."""

from __future__ import annotations

from typing import Any

from pytorch_lightning import Callback, LightningModule, Trainer
from pytorch_lightning.callbacks import ProgressBar
from pytorch_lightning.cli import LightningArgumentParser, LightningCLI
from pytorch_lightning.loggers import Logger, WandbLogger
from pytorch_lightning.utilities import rank_zero_only

from bagnet.run.agreement import SameEverywhere
from bagnet.run.checkpoints import LastCheckpoint
from bagnet.run.complete import Restored, why_complete
from bagnet.run.heartbeat import Heartbeat
from bagnet.run.lease import Lease
from bagnet.run.loggers.csv_table import CSVTable
from bagnet.run.loggers.wandb import ResumableWandbLogger
from bagnet.run.summary import Summary, describe
from bagnet.training.command_line.flags import CommandLine
from bagnet.training.command_line.options import RunOptions
from bagnet.training.command_line.parser import Parser, SaveConfig, bound_yaml, why_not_made
from bagnet.training.command_line.trainer import (
    TRAINER_DEFAULTS,
    check_settings,
    prepare_devices,
    silence_lightning,
)
from bagnet.training.forward import check_compile
from bagnet.training.monitoring.aggregations import Aggregations
from bagnet.training.monitoring.confusion_logger import ConfusionLogger
from bagnet.training.monitoring.evidence_logger import EvidenceLogger
from bagnet.training.monitoring.finite import FiniteLoss
from bagnet.training.monitoring.profiling import profiler_of
from bagnet.training.monitoring.progress import progress_bar
from bagnet.training.monitoring.sync_debug import SyncDebug
from bagnet.training.monitoring.throughput import Throughput
from bagnet.training.monitoring.unreadable import UnreadableLimit
from datamodules.common.ranges import YEAR, require_range
from datamodules.remote.urls import redacted

RANGES = {
    "seed_everything": (0, 2**32 - 1),  # what NumPy takes
    "checkpoint_minutes": (0, YEAR),
    "timeout_minutes": (0.1, YEAR),
    "max_skipped_steps": (0,),
    "evidence_images": (0,),
    "trainer.log_every_n_steps": (1,),
    "trainer.num_nodes": (1,),
}
"""The least and the largest value of settings, besides those of the data and the network."""


class BagNetCLI(LightningCLI):
    """Builds the data, the network and the Trainer from a command line, and runs its subcommand.

    Args:
        model: The LightningModule class.
        data: The LightningDataModule class, such as `ImageNetDataModule`.
        command: The command line, with its short flags spelled out.
    """

    def __init__(self, model: type[LightningModule], data: Any, command: CommandLine) -> None:
        self.command = command
        self.fitting = command.arguments[0] == "fit"
        self.lease = Lease(command.run.starts)
        silence_lightning()
        bound_yaml()
        super().__init__(
            model,
            data,
            save_config_callback=SaveConfig if self.fitting else None,
            save_config_kwargs={"run": command.run},
            trainer_defaults=TRAINER_DEFAULTS,
            parser_class=Parser,
            seed_everything_default=0,
            args=command.arguments,
            auto_configure_optimizers=False,
            # The module saves its own hyperparameters, which include the num_classes of the data.
            load_from_checkpoint_support=False,
        )

    @staticmethod
    def subcommands() -> dict[str, set[str]]:
        skipped = {"model", "datamodule", "ckpt_path", "weights_only", "dataloaders", "verbose"}
        return {
            "fit": skipped - {"dataloaders"} | {"train_dataloaders", "val_dataloaders"},
            "validate": skipped,
            "test": skipped,
        }

    def parse_arguments(self, parser: LightningArgumentParser, args: Any) -> None:
        # LightningCLI's own method warns if sys.argv differs, which our short flags always cause.
        self.config = parser.parse_args(args)
        config = self.config[self.config.subcommand]
        for name, limits in RANGES.items():
            if config[name] is not None:
                require_range(f"--{name}", config[name], *limits)
        typed = any(word.partition("=")[0] == "--data.allow_pipe" for word in args)
        if config.data.allow_pipe and not typed:
            raise ValueError(
                "a file of settings has data.allow_pipe, but only the command line may allow "
                "commands to run: if you trust it, give --data.allow_pipe true"
            )

    def add_default_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        super().add_default_arguments_to_parser(parser)
        parser.add_class_arguments(RunOptions, instantiate=False)

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        for name in ("classes", "num_classes"):
            parser.link_arguments(f"data.{name}", f"model.{name}", apply_on="instantiate")
        parser.link_arguments("data.batch_size", "model.batch_size")
        for part in ("data", "model"):
            parser.link_arguments("seed_everything", f"{part}.seed", compute_fn=int)

    @property
    def settings(self) -> Any:
        """The configuration of the subcommand."""
        return self.config_init[self.command.arguments[0]]

    def before_instantiate_classes(self) -> None:
        # Fail before anything is built.
        config = self.config[self.command.arguments[0]]
        trainer = config["trainer"]
        accumulated = trainer["accumulate_grad_batches"]
        recompute = config["model"]["activation_checkpointing"]
        compile = config["model"]["compile"]
        check_compile(compile, trainer["sync_batchnorm"], accumulated, recompute)
        if self.fitting:
            run, resume = self.command.run, self.command.resume
            if trainer["fast_dev_run"]:  # begins anew, and leaves the run's folder alone
                self.resumed_from = None
            elif resume is None:
                # Only rank 0 checks: the others may start after it has already filled the folder.
                rank_zero_only(run.refuse_to_overwrite)()
                self.resumed_from = None
            else:
                self.resumed_from = run.checkpoint_to_resume(resume)
        else:
            trainer["logger"] = False  # the run's may need packages that only its machine has

    def instantiate_classes(self) -> None:
        model = self.config[self.command.arguments[0]]["model"]
        weights = model["weights"]
        if self.fitting and self.resumed_from is not None:
            model["weights"] = None  # they are in the checkpoint; the file may be gone
        try:
            super().instantiate_classes()
            model["weights"] = weights  # for config.yaml
        except ValueError as error:
            reason = why_not_made(str(error))
            if reason is None:
                raise
            raise ValueError(reason) from error
        if self.model.notice and self.model.has_fresh_classifier and not self.fitting:
            raise ValueError(
                f"{self.model.notice}, and there is nothing to evaluate; give the data that it was "
                "trained on"
            )

    def instantiate_trainer(self, **kwargs: Any) -> Trainer:
        config = self.settings["trainer"]
        chosen = prepare_devices(config, self.settings["timeout_minutes"])
        # The configuration is saved with the precision in use, not with "whatever is best".
        self.config[self.command.arguments[0]]["trainer"]["precision"] = chosen["precision"]
        trace = self.command.run.trace if self.fitting and not config["fast_dev_run"] else None
        return super().instantiate_trainer(
            **chosen,
            logger=self._loggers(config["logger"]) if self.fitting else False,
            profiler=profiler_of(config["profiler"], trace),
            callbacks=self._callbacks(config),
        )

    def _loggers(self, chosen: Any) -> list[Logger]:
        """Our table, W&B unless `chosen` is `false`, and the user's, which may have W&B's too."""
        run, resuming = self.command.run, self.command.resume is not None
        table = CSVTable(run.metrics, self.lease)
        loggers: list[Logger] = [] if chosen is True else _as_list(chosen)
        if chosen is not False and not any(isinstance(logger, WandbLogger) for logger in loggers):
            artifacts = self.settings["wandb_artifacts"]
            wandb = ResumableWandbLogger(run, resuming, table, self.lease, artifacts)
            loggers = [wandb, *loggers]
        return [table, *loggers]

    def _callbacks(self, trainer: dict[str, Any]) -> list[Callback]:
        every = trainer["log_every_n_steps"] or 50  # Lightning's own default
        given: list[Callback] = _as_list(trainer["callbacks"])
        check_settings(trainer, given)
        heartbeat = Heartbeat(self.settings["timeout_minutes"])
        callbacks: list[Callback] = [heartbeat, *SyncDebug.wanted(every), *given]
        self.aggregations = Aggregations(self.settings["aggregations"])
        if self.aggregations.by_name:
            callbacks.append(self.aggregations)
        callbacks.append(SameEverywhere())
        callbacks.append(UnreadableLimit(self.datamodule.max_unreadable, every))
        own_bar = any(isinstance(callback, ProgressBar) for callback in given)
        if trainer["enable_progress_bar"] is not False and not own_bar:
            callbacks.append(progress_bar())
        if self.fitting:
            run = self.command.run
            images = 0 if trainer["fast_dev_run"] else self.settings["evidence_images"]
            evidence = EvidenceLogger(run, images)
            last = LastCheckpoint(run, self.lease, self.settings["checkpoint_minutes"])
            finite = FiniteLoss(max_skipped=self.settings["max_skipped_steps"])
            restored = Restored(self.resumed_from)
            callbacks += [restored, finite, Throughput(every), Summary(run), evidence, last]
            if not trainer["fast_dev_run"]:
                callbacks.append(ConfusionLogger(run))
        return callbacks

    def fit(self, **kwargs: Any) -> None:
        if self.resumed_from is not None:
            done = why_complete(self.resumed_from, self.trainer)
            if done:
                rank_zero_only(print)(f"{self.command.run.folder} is complete: {done}")
                for logger in self.trainer.loggers:
                    if isinstance(logger, ResumableWandbLogger):
                        logger.complete()
                return
        self.datamodule.check_world_size(self.trainer.world_size)
        self.trainer.fit(ckpt_path=self.resumed_from, weights_only=True, **kwargs)

    def validate(self, **kwargs: Any) -> None:
        figures = self._evaluate("validate", "val", **kwargs)
        rank_zero_only(print)(f"validation   {describe(figures, 'val')}")
        for name, figures in self.aggregations.figures.items():
            rank_zero_only(print)(f"{name:12} {describe(figures, 'val')}")

    def test(self, **kwargs: Any) -> None:
        figures = self._evaluate("test", "test", **kwargs)
        rank_zero_only(print)(f"test         {describe(figures, 'test')}")

    def _evaluate(self, subcommand: str, stage: str, **kwargs: Any) -> Any:
        weights = self.config[subcommand]["model"]["weights"]
        run, note = self.command.run, ""
        if weights == str(run.last) and not run.best.exists():
            note = " (there is no best.ckpt, because the run had no validation)"
        rank_zero_only(print)(f"weights      {redacted(weights)}{note}", flush=True)
        results = getattr(self.trainer, subcommand)(**kwargs, verbose=False)
        if not results:
            raise ValueError(
                f"nothing is left to evaluate: --trainer.limit_{stage}_batches is "
                f"{self.settings['trainer'][f'limit_{stage}_batches']}"
            )
        return results[0]


def _as_list(given: Any) -> list[Any]:
    """Callbacks or loggers from a config, where one of them needs no list around it."""
    return given if isinstance(given, list) else [given] if given else []
