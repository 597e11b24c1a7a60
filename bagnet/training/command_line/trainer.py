"""How Lightning's Trainer is set up: devices, precision, DDP, and messages."""

from __future__ import annotations

import inspect
import logging
import warnings
from datetime import timedelta
from typing import Any

import torch
from pytorch_lightning import Trainer
from pytorch_lightning.callbacks import (
    Callback,
    GradientAccumulationScheduler,
    LearningRateFinder,
    StochasticWeightAveraging,
    Timer,
)
from pytorch_lightning.strategies import DDPStrategy, StrategyRegistry
from torch.nn.parallel import DistributedDataParallel

from bagnet.run import ranks
from bagnet.run.checkpoint_io import AtomicCheckpointIO
from bagnet.run.launch import check_strategy, launch_settings, meet_on_this_node

TRAINER_DEFAULTS = {
    "max_epochs": 90,
    # The data plan divides the samples among the ranks; Lightning's sampler would do it again.
    "use_distributed_sampler": False,
    "enable_model_summary": False,
}

NOISE = ("💡", "GPU available", "TPU available", "`Trainer.fit` stopped")
"""Beginnings of messages of Lightning's that are of no use to our users."""


REFUSED = {
    "barebones": "it leaves out the table and the checkpoints, which are the run; to measure the "
    "raw speed, use `python -m bagnet.bench train`",
    "enable_checkpointing": "a run is resumed and evaluated from its checkpoints; to try a few "
    "batches that leave nothing behind, use --trainer.fast_dev_run true",
    "overfit_batches": "each epoch has other batches, because the samples follow the data plan; "
    "to overfit, train on a small data set (--data.root)",
    "reload_dataloaders_every_n_epochs": "the data stays the same, so leave it out",
}
"""Settings of the Trainer's that must keep their default, and why."""

REFUSED_CALLBACKS = {
    StochasticWeightAveraging: "the learning rate is a function of the step "
    "(--model.learning_rate, --model.schedule), and no callback can set it",
    LearningRateFinder: "the learning rate belongs to the settings of a run, which is resumed with "
    "them; docs/library.md shows how to find one before",
    GradientAccumulationScheduler: "the order of the samples depends on the batch "
    "(--data.batch_size, --trainer.accumulate_grad_batches), which therefore stays the same for "
    "the whole run",
    Timer: "use --trainer.max_time",
}
"""Callbacks of Lightning's that would not work, and why."""


def check_settings(config: dict[str, Any], callbacks: list[Callback]) -> None:
    """Refuse what Lightning offers and our trainings cannot have.

    Args:
        config: The `trainer` section of the configuration.
        callbacks: The user's.

    Raises:
        ValueError: A setting, or a callback, would do nothing or harm.
    """
    for name, reason in REFUSED.items():
        default = inspect.signature(Trainer).parameters[name].default
        if config[name] not in (default, name == "enable_checkpointing"):
            raise ValueError(f"--trainer.{name} {config[name]}: {reason}")
    for callback in callbacks:
        for kind, reason in REFUSED_CALLBACKS.items():
            if isinstance(callback, kind):
                raise ValueError(f"--trainer.callbacks {kind.__name__}: {reason}")


def silence_lightning() -> None:
    """Hide messages of Lightning's that do not apply to our runs."""
    logging.getLogger("pytorch_lightning.utilities.rank_zero").addFilter(_is_news)
    for message in (
        # Lightning 2.6 calls a function that newer releases of torch deprecate.
        ".*LeafSpec.* is deprecated",
        # Our figures are logged at the end of an epoch as well, however short it is.
        ".*is smaller than the logging interval",
        # A resumed run continues in its own folder.
        "Checkpoint directory .* exists and is not empty",
        # Every machine with SLURM gets this hint, however the ranks were started.
        "The `srun` command is available",
    ):
        warnings.filterwarnings("ignore", message=message)


def _is_news(record: logging.LogRecord) -> bool:
    return not record.getMessage().startswith(NOISE)


class DDP(DDPStrategy):
    """Lightning's strategy, whose ranks end together, and on one node listen to that node only.

    Args:
        timeout: How long a rank waits for the others. `Heartbeat` notices before, and by name.
        settings: Options of `DistributedDataParallel`.
    """

    def __init__(self, timeout: timedelta, **settings: Any) -> None:
        super().__init__(timeout=timeout, **settings)
        self.timeout = timeout

    def setup_environment(self) -> None:
        launcher: Any = self.launcher
        ranks.watch(launcher.procs, self.global_rank)
        super().setup_environment()

    def setup_distributed(self) -> None:
        if self.num_nodes == 1:
            self._meeting = meet_on_this_node(self.cluster_environment, self.is_global_zero)
        super().setup_distributed()


def prepare_devices(config: dict[str, Any], timeout_minutes: float = 10.0) -> dict[str, Any]:
    """Check the devices that the Trainer's configuration asks for, and register our DDP settings.

    Args:
        config: The `trainer` section of the configuration.
        timeout_minutes: Minutes that a rank waits for the others in a collective operation.

    Returns:
        Arguments for the Trainer: `devices`, `num_nodes`, `precision`, `benchmark` and `plugins`.

    Raises:
        ValueError: The machine does not have these devices, or the ranks would not work together.
    """
    check_strategy(config["strategy"])
    launched = launch_settings(config["devices"], config["num_nodes"])
    check_devices(config["accelerator"], launched["devices"])
    on_gpu = config["accelerator"] in ("auto", "gpu", "cuda") and torch.cuda.is_available()
    precision = config["precision"] or default_precision(on_gpu)
    if on_gpu and precision == "32-true":
        # By default, cuDNN uses TF32: the authors' BagNet-33 then loses 2.5 points of top-1.
        torch.backends.cudnn.allow_tf32 = False
    # "ddp" is also the strategy that Lightning chooses by default for several devices.
    for name, settings in {
        "ddp": ddp_settings(config["accumulate_grad_batches"]),
        "ddp_find_unused_parameters_true": {"find_unused_parameters": True},
    }.items():
        settings["timeout"] = timedelta(minutes=timeout_minutes + 1)
        StrategyRegistry.register(name, DDP, override=True, **settings)
    benchmark = config["benchmark"]
    if benchmark is None:  # images and batches have few sizes, so cuDNN's search pays off
        benchmark = not config["deterministic"]
    launched["plugins"].append(AtomicCheckpointIO())
    return {**launched, "precision": precision, "benchmark": benchmark}


def check_devices(accelerator: str, devices: Any) -> None:
    """Refuse more GPUs than the machine has.

    Raises:
        ValueError: `accelerator` means GPUs, and `devices` is more than there are.
    """
    available = torch.cuda.device_count()
    wanted = int(devices) if str(devices).isdigit() else 0
    on_gpu = accelerator in ("gpu", "cuda") or (accelerator == "auto" and available > 0)
    if on_gpu and wanted > available:
        raise ValueError(
            f"--gpus {wanted}: this machine has {available}; ask for at most that many "
            "(--gpus 0 trains on the CPU)"
        )


def default_precision(on_gpu: bool) -> str:
    """Mixed precision on a GPU, in bfloat16 if it has it; float32 on a CPU."""
    if not on_gpu:
        return "32-true"
    # Older GPUs, such as V100 and T4, emulate bfloat16, which is slow.
    has_bf16 = torch.cuda.is_bf16_supported(including_emulation=False)
    return "bf16-mixed" if has_bf16 else "16-mixed"


def ddp_settings(accumulated: int) -> dict[str, Any]:
    """Options of `DistributedDataParallel`, for as few kernels and waits in a step as possible.

    Buffers, the statistics of BatchNorm, are not broadcast in each forward pass; the classifier
    does that before a validation. Gradients are copied for the all-reduce bucket by bucket, and not
    one by one, where torch can do that (2.13 or newer).

    Args:
        accumulated: Batches per optimizer step. With more than one, a static graph fails an
            assertion in torch 2.15.
    """
    known = inspect.signature(DistributedDataParallel).parameters
    settings = {"gradient_as_bucket_view": True, "static_graph": accumulated == 1}
    if "batched_grad_copy" in known:
        settings["batched_grad_copy"] = True
    newer = "forward_sync_buffers" in known  # torch 2.13 has renamed it
    settings["forward_sync_buffers" if newer else "broadcast_buffers"] = False
    return settings
