"""The command line behind train.py: LightningCLI with our loggers, callbacks and defaults."""

from __future__ import annotations

import logging
import re
import sys
import warnings
from pathlib import Path
from typing import Any, NoReturn

import torch
from pytorch_lightning import Callback, LightningModule, Trainer
from pytorch_lightning.callbacks import ModelCheckpoint
from pytorch_lightning.cli import LightningArgumentParser, LightningCLI, SaveConfigCallback
from pytorch_lightning.plugins.environments import SLURMEnvironment
from pytorch_lightning.strategies import DDPStrategy, StrategyRegistry
from pytorch_lightning.utilities import rank_zero_only

from bagnet.run import slurm
from bagnet.run.agreement import SameEverywhere
from bagnet.run.checkpoints import AtomicCheckpointIO, LastCheckpoint
from bagnet.run.lease import Lease
from bagnet.run.csv_table import CSVTable
from bagnet.run.summary import Summary, describe
from bagnet.run.wandb import ResumableWandbLogger
from bagnet.training.aggregations import Aggregations
from bagnet.training.evidence_logger import EvidenceLogger
from bagnet.training.flags import Command
from bagnet.training.progress import Progress
from bagnet.training.throughput import Throughput
from bagnet.training.unreadable import UnreadableLimit

TRAINER_DEFAULTS = {
    "max_epochs": 90,
    # The data plan divides the samples itself, exactly; Lightning's sampler would do it once more.
    "use_distributed_sampler": False,
    "enable_model_summary": False,
}


NOISE = ("💡", "GPU available", "TPU available", "`Trainer.fit` stopped")
"""Beginnings of Lightning's messages that tell a user of ours nothing."""


class BagNetCLI(LightningCLI):
    """``fit``, ``validate`` and ``test`` of a classifier on a data module.

    Args:
        model: The LightningModule class.
        data: The LightningDataModule class, such as ``ImageNetDataModule``.
        command: The command line, its short flags spelled out.
    """

    def __init__(self, model: type[LightningModule], data: Any, command: Command) -> None:
        self.command = command
        self.fitting = command.arguments[0] == "fit"
        self.lease = Lease(command.run.starts)
        logging.getLogger("pytorch_lightning.utilities.rank_zero").addFilter(_is_news)
        # Lightning 2.6 calls a part of torch that newer releases of it deprecate.
        warnings.filterwarnings("ignore", message=".*LeafSpec.* is deprecated")
        # Ours are logged at the end of an epoch too, however short it is.
        warnings.filterwarnings("ignore", message=".*is smaller than the logging interval")
        # A resumed run goes on in its folder.
        warnings.filterwarnings("ignore", message="Checkpoint directory .* exists and is not empty")
        super().__init__(
            model,
            data,
            save_config_callback=_SaveConfig if self.fitting else None,
            save_config_kwargs={"overwrite": True},
            trainer_defaults=TRAINER_DEFAULTS,
            parser_class=_Parser,
            seed_everything_default=0,
            args=command.arguments,
            auto_configure_optimizers=False,
            # The checkpoint keeps what the module was built with, num_classes of the data included.
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
        # As LightningCLI does, without its warning that sys.argv says something else: it does, in short flags.
        self.config = parser.parse_args(args)

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        parser.link_arguments("data.num_classes", "model.num_classes", apply_on="instantiate")
        parser.link_arguments("data.batch_size", "model.batch_size")
        parser.link_arguments("seed_everything", "data.seed", compute_fn=int)
        parser.add_argument(
            "--checkpoint_minutes",
            type=float,
            default=30.0,
            help="save amid an epoch after so many minutes, which is what a crash costs at most",
        )
        parser.add_argument(
            "--evidence_images",
            type=int,
            default=12,
            help="validation images whose evidence is drawn after each epoch",
        )
        parser.add_argument(
            "--wandb_artifacts",
            type=bool,
            default=False,
            help="give the best and the last checkpoint to W&B when the training ends",
        )
        parser.add_argument(
            "--aggregations",
            type=list[str],
            default=[],
            help="for validate: other ways to sum the evidence up, as [median, clamp:0, masked:6]",
        )

    def before_instantiate_classes(self) -> None:
        if self.fitting:  # fail before anything is built
            run, resume = self.command.run, self.command.resume
            if resume is None:
                # Rank 0 alone: the others may start when it has already filled the folder.
                rank_zero_only(run.refuse_to_overwrite)()
                self.resumed_from = None
            else:
                self.resumed_from = run.checkpoint_to_resume(resume)

    def instantiate_trainer(self, **kwargs: Any) -> Trainer:
        config = self.config_init[self.command.arguments[0]]["trainer"]
        if str(config["devices"]).isdigit():
            slurm.check_setup(int(config["devices"]), config["num_nodes"])
        check_devices(config["accelerator"], config["devices"])
        on_gpu = config["accelerator"] in ("auto", "gpu", "cuda") and torch.cuda.is_available()
        precision = config["precision"] or default_precision(on_gpu)
        self.config[self.command.arguments[0]]["trainer"]["precision"] = precision  # what is saved
        if on_gpu and precision == "32-true":
            # Asked for float32, cuDNN would round to TF32: the authors' BagNet-33 then loses 2.5 points of top-1.
            torch.backends.cudnn.allow_tf32 = False
        settings = ddp_settings(config["accumulate_grad_batches"])
        # The name that Lightning also takes by itself for several devices.
        StrategyRegistry.register("ddp", DDPStrategy, override=True, **settings)
        plugins: list[Any] = [AtomicCheckpointIO()]
        if SLURMEnvironment.detect():
            # Its own requeueing would save in the signal handler (`callbacks/preemption.py` does not).
            plugins.append(SLURMEnvironment(auto_requeue=False))
        return super().instantiate_trainer(
            precision=precision,
            plugins=plugins,
            logger=self._loggers(config["logger"]),
            callbacks=self._callbacks(config),
        )

    def _loggers(self, chosen: Any) -> Any:
        if not self.fitting:
            return False
        if chosen is not None:
            return chosen
        run, resuming = self.command.run, self.command.resume is not None
        table = CSVTable(run.metrics, self.lease)
        artifacts = self.config_init["fit"]["wandb_artifacts"]
        return [table, ResumableWandbLogger(run, resuming, table, self.lease, artifacts)]

    def _callbacks(self, trainer: dict[str, Any]) -> list[Callback]:
        callbacks: list[Callback] = list(trainer["callbacks"] or [])
        config = self.config_init[self.command.arguments[0]]
        every = trainer["log_every_n_steps"] or 50  # as Lightning
        self.aggregations = Aggregations(config["aggregations"])
        if self.aggregations.ways:
            callbacks.append(self.aggregations)
        callbacks.append(SameEverywhere())
        callbacks.append(UnreadableLimit(self.datamodule.max_unreadable, every))
        if trainer["enable_progress_bar"] is not False:
            callbacks.append(Progress())
        if self.fitting:
            run = self.command.run
            best = ModelCheckpoint(
                run.checkpoints,
                run.best.stem,
                monitor="val/top1",
                mode="max",
                save_on_train_epoch_end=True,
                enable_version_counter=False,
            )
            # The last one behind it: it holds which was the best so far.
            evidence = EvidenceLogger(run, config["evidence_images"])
            last = LastCheckpoint(run, self.lease, config["checkpoint_minutes"])
            callbacks += [Throughput(every), Summary(run), evidence, best, last]
        return callbacks

    def fit(self, **kwargs: Any) -> None:
        if self.resumed_from is not None:
            epochs, limit = epochs_done(self.resumed_from), self.trainer.max_epochs
            if limit is not None and 0 <= limit <= epochs:
                rank_zero_only(print)(
                    f"{self.command.run.folder} is complete: {epochs} of {limit} epochs are done"
                )
                return
        self.datamodule.check_world_size(self.trainer.world_size)
        self.trainer.fit(ckpt_path=self.resumed_from, weights_only=True, **kwargs)

    def validate(self, **kwargs: Any) -> None:
        (figures,) = self.trainer.validate(**kwargs, verbose=False)
        rank_zero_only(print)(f"validation   {describe(figures, 'val')}")
        for name, (top1, top5) in self.aggregations.figures.items():
            rank_zero_only(print)(f"{name:12} top-1 {top1:.2%}, top-5 {top5:.2%}")

    def test(self, **kwargs: Any) -> None:
        (figures,) = self.trainer.test(**kwargs, verbose=False)
        rank_zero_only(print)(f"test         {describe(figures, 'test')}")


class _Parser(LightningArgumentParser):
    """Answers a wrong command with what is wrong, not with a page of usage."""

    def error(self, message: str, ex: Exception | None = None) -> NoReturn:
        command = re.sub(r"\b(fit|validate|test)\.", "--", message)
        print(f"error: {command}; see python train.py fit --help", file=sys.stderr)
        sys.exit(2)


class _SaveConfig(SaveConfigCallback):
    """Writes config.yaml into the run's folder and gives the resolved configuration to W&B."""

    def save_config(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        config = self.config.as_dict()
        for logger in trainer.loggers:
            logger.log_hyperparams(config)


def _is_news(record: logging.LogRecord) -> bool:
    return not record.getMessage().startswith(NOISE)


def epochs_done(checkpoint: Path) -> int:
    """Whole epochs of training in a checkpoint; its tensors are not read."""
    content = torch.load(checkpoint, map_location="meta", weights_only=True, mmap=True)
    return content["loops"]["fit_loop"]["epoch_progress"]["current"]["processed"]


def ddp_settings(accumulated: int) -> dict[str, Any]:
    """How several ranks train: gradients are not copied, nor weights without one looked for, as there are none.

    Args:
        accumulated: Batches of an optimizer step. With several, a static graph ends in an assertion of torch 2.15.
    """
    return {"gradient_as_bucket_view": True, "static_graph": accumulated == 1}


def default_precision(on_gpu: bool) -> str:
    """Mixed on a GPU, bfloat16 where it can; full on a CPU."""
    if not on_gpu:
        return "32-true"
    return "bf16-mixed" if torch.cuda.is_bf16_supported() else "16-mixed"


def check_devices(accelerator: str, devices: Any) -> None:
    """Refuse more GPUs than there are, with the number that there are.

    Raises:
        ValueError: ``accelerator`` asks for GPUs and ``devices`` for more than the machine has.
    """
    available = torch.cuda.device_count()
    wanted = int(devices) if str(devices).isdigit() else 0
    if accelerator in ("gpu", "cuda") and wanted > available:
        raise ValueError(
            f"--gpus {wanted}: this machine has {available}; ask for at most that many "
            "(--gpus 0 trains on the CPU)"
        )
