"""The short flags of train.py, translated for LightningCLI.

Imports nothing heavy, so that `--help` is instant.
"""

from __future__ import annotations

import argparse
import os
import sys
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import yaml

from bagnet.run.folder import Run
from datamodules.common.files import user_path
from datamodules.common.reading import read_plain
from datamodules.common.yaml_texts import MOST_CHARACTERS, check_yaml

PATCHES = (9, 17, 25, 29, 33, 65, 77)

SHORT_HELP = """\
Train and evaluate BagNets, which classify images by the votes of patches.

train:     {program} --patch 33 --gpus 8 --data.root SHARDS
resume:    {program} ... --resume auto
evaluate:  {program} validate --name bagnet33
           {program} validate --patch 33 --model.weights FILE ...
predict:   {program} predict --name bagnet33 IMAGES
export:    {program} export --name bagnet33 --format onnx bagnet33.onnx

what to train
  --patch PIXELS       side of the patch that votes: 9, 17, 25, 29, 33, 65 or 77
                       (default: 33)
  --data.root SHARDS   packed images: python -m datamodules.pack --help
  --config FILE        settings, see configs/*.yaml; flags win over them
  --resume auto|FILE   continue from the run's last checkpoint, if any, or FILE
                       (Lightning's --ckpt_path is the same)
where it is kept
  --name NAME          name of the run, for its folder and in W&B
                       (default: the name of the config, or of the network;
                       in a W&B sweep, the trial's id)
  --runs_dir DIR       folder of all runs (default: $BAGNET_RUNS, or else runs)
what to run on
  --gpus N             GPUs of each node; 0 is the CPU
  --nodes N            nodes, whose processes srun or torchrun starts
  --compile [MODE]     compile the network (MODE: reduce-overhead, max-autotune)
everything else, listed by `{program} fit --help` (also: validate, test)
  --model.*            --model.learning_rate 0.01, --model.schedule cosine, ...
  --data.*             --data.batch_size 256 (over all GPUs), ...
  --trainer.*          --trainer.max_epochs 90, --trainer.precision 16-mixed...
"""


@dataclass(frozen=True)
class CommandLine:
    """What the short flags said.

    Attributes:
        arguments: The command line for LightningCLI, subcommand first.
        run: Folder and name of the run.
        resume: None, `"auto"`, or the path of a checkpoint.
    """

    arguments: list[str]
    run: Run
    resume: str | None


def program() -> str:
    """The program as the user typed it, for messages."""
    return "bagnet" if Path(sys.argv[0]).name == "bagnet" else "python train.py"


def short_help() -> str:
    return SHORT_HELP.format(program=program())


def wants_short_help(arguments: list[str]) -> bool:
    """Whether help is wanted without a subcommand; the help of a subcommand is LightningCLI's."""
    subcommand, _ = _subcommand(arguments)
    return subcommand is None and ("--help" in arguments or "-h" in arguments)


def expand(arguments: list[str]) -> CommandLine:
    """Spell out the short flags. Configs come first, so that flags win over them.

    Raises:
        ValueError: A flag has no value or an impossible one, or an evaluation names no weights.
    """
    subcommand, rest = _subcommand(arguments)
    parser = argparse.ArgumentParser(allow_abbrev=False, add_help=False, exit_on_error=False)
    parser.add_argument("--patch", type=int)
    parser.add_argument("--gpus", type=int)
    parser.add_argument("--nodes", type=int)
    parser.add_argument("--compile", nargs="?", const="true")
    parser.add_argument("--name")
    parser.add_argument("--runs_dir", default=os.environ.get("BAGNET_RUNS") or "runs")
    parser.add_argument("--resume", "--ckpt_path")
    parser.add_argument("-c", "--config", action="append", default=[])
    try:
        flags, rest = parser.parse_known_args(rest)
    except argparse.ArgumentError as error:
        raise ValueError(f"{error}; see {program()} --help") from None

    evaluating = subcommand in ("validate", "test")
    configs, spelled, wholly = list(flags.config), [], []
    name = flags.name or (Path(configs[-1]).stem if configs else f"bagnet{flags.patch or 33}")
    if flags.name is None and is_trial():
        name = os.environ["WANDB_RUN_ID"]
    run = Run(name, user_path(flags.runs_dir))
    if flags.patch is not None:
        if flags.patch not in PATCHES:
            choices = ", ".join(map(str, PATCHES))
            raise ValueError(
                f"--patch {flags.patch}: there is no such BagNet; choose one of {choices}, or give "
                "--model.name bagnet-2-2-1-0 for the numbers of 3x3 convolutions of its stages"
            )
        spelled += ["--model.name", f"bagnet{flags.patch}"]
    if flags.gpus is not None:
        kind = "gpu" if flags.gpus else "cpu"
        spelled += ["--trainer.accelerator", kind, "--trainer.devices", str(flags.gpus or "auto")]
    if flags.nodes is not None:
        spelled += ["--trainer.num_nodes", str(flags.nodes)]
    if flags.compile is not None:
        spelled += ["--model.compile", flags.compile]
    if evaluating and flags.name is not None:
        if not run.config.exists():
            raise ValueError(
                f"--name {run.name}: there is no {run.config}; give the name of a training, "
                "or the folder of its run (--runs_dir)"
            )
        # The run's own settings describe its data; flags and other configs still win over them.
        configs.insert(0, str(run.config))
        # A part of the validation may have been enough while it trained.
        wholly = ["--trainer.limit_val_batches", "null", "--trainer.limit_test_batches", "null"]
        spelled += ["--model.weights", flags.resume or str(run.weights)]
    elif evaluating and flags.resume is not None:
        spelled += ["--model.weights", flags.resume]
    elif evaluating and not any(
        word.startswith(("--model.weights", "-h", "--help")) for word in rest
    ):
        raise ValueError(
            f"{subcommand} needs weights: those of a run (--name NAME) or of a file "
            "(--model.weights FILE)"
        )
    for config in configs:
        _check(config)
    words = [word for config in configs for word in ("--config", config)]
    words[2:2] = wholly
    return CommandLine([subcommand or "fit", *words, *spelled, *rest], run, flags.resume)


def _check(config: str) -> None:
    """Raise a ValueError that names a config if it is not YAML; jsonargparse does not name it."""
    path = Path(config)
    if not path.is_file():  # a missing one has a message already, and a pipe is read only once
        return
    try:
        with suppress(OSError):
            check_yaml(read_plain(path, 4 * MOST_CHARACTERS).decode("utf-8"))
    except UnicodeDecodeError as error:
        raise ValueError(f"--config {config} is not UTF-8 text ({error.reason})") from None
    except yaml.YAMLError as error:
        reason = " ".join(str(error).split())
        raise ValueError(f"--config {config} cannot be read: {reason}") from None


def is_trial() -> bool:
    """Whether a sweep's agent of W&B has started this training; it sets these variables."""
    return bool(os.environ.get("WANDB_SWEEP_ID") and os.environ.get("WANDB_RUN_ID"))


def _subcommand(arguments: list[str]) -> tuple[str | None, list[str]]:
    """The leading word, if there is one, and the words after it."""
    if arguments and not arguments[0].startswith("-"):
        return arguments[0], arguments[1:]
    return None, arguments
