"""A folder as on the Hugging Face Hub: `config.json`, `model.safetensors` and a model card."""

from __future__ import annotations

import contextlib
import json
import textwrap
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
import yaml
from torch import nn

from bagnet.model.card import card_of
from bagnet.model.config import CONFIG, WEIGHTS, config_of
from bagnet.model.network import BagNet
from bagnet.model.registry import classifier_of
from bagnet.model.weights import save_weights
from bagnet.run.folder import Run
from bagnet.run.lease import Lease, latest_start
from bagnet.run.loggers.csv_table import CSVTable
from bagnet.run.summary import describe
from datamodules.common.files import user_path, write_text
from datamodules.common.yaml_texts import read_yaml
from datamodules.shards.manifest import Manifest

TRAINER = (
    *("max_epochs", "max_steps", "precision", "accumulate_grad_batches"),
    *("gradient_clip_val", "gradient_clip_algorithm", "sync_batchnorm", "callbacks"),
)
"""Settings of the Trainer that belong to a recipe."""
PLACES = {
    "model": ("weights", "compile"),
    "data": ("root", "workers", "audit_dir", "cache_dir", "cache_gib", "allow_pipe"),
}
"""Settings that say where and on what, and do not belong to a recipe; paths can be private."""

FEW = 20
"""Classes that the model card names; `config.json` has all of them."""

PAGE = """\
---
library_name: bagnet
pipeline_tag: image-classification
tags:
- image-classification
- bagnet
---

# {title}

{network}

## Use

```python
import bagnet

model = bagnet.load("FOLDER")  # this folder, or hf://ORG/NAME
logits = model(images)  # (B, {classes}), from normalized images (B, 3, H, W)
{evidence}```

{images}

## Data

{data}

## Figures

{figures}

## Recipe

{recipe}

## Limits

- An image of anything else is given one of the {classes:,} classes, too.
- The figures are for images like those of the validation. Images of other origin were not
  measured, nor whether the probabilities are calibrated.
{limits}"""


def write(model: nn.Module, folder: Path, checkpoint: Path) -> None:
    """Write all files of a network; its card has its name and sizes.

    Args:
        model: The network.
        folder: An empty folder.
        checkpoint: Where the weights come from; if that is a run, the model card says how it was
            trained.
    """
    save_weights(model, folder / WEIGHTS)
    write_text(json.dumps(config_of(model), indent=2) + "\n", folder / CONFIG)
    write_text(_page(model, checkpoint), folder / "README.md")


def _page(model: nn.Module, checkpoint: Path) -> str:
    """The model card."""
    card, run = card_of(model), _run_of(checkpoint)
    config = _settings(run) if run else {}
    network = f"{card.name}, {sum(weight.numel() for weight in model.parameters()):,} parameters."
    evidence = limits = ""
    if isinstance(model, BagNet):
        side = model.receptive_field
        network += (
            " A BagNet ([Brendel & Bethge, ICLR 2019](https://openreview.net/forum?id=SkfMWhAqYQ))"
            f": each patch of {side}x{side} pixels votes for the classes, and the logits of an "
            "image are the mean of the votes."
        )
        evidence = "evidence = bagnet.evidence_map(model, images)  # the votes of all patches\n"
        limits = (
            f"- It sees nothing larger than {side}x{side} pixels, nor how patches are arranged.\n"
        )
    size = card.image_size
    return PAGE.format(
        title=run.name if run else card.name,
        network=_filled(network),
        classes=classifier_of(model).out_features,
        evidence=evidence,
        images=_filled(
            f"Resize the shorter side of an image to {card.resize_size} pixels (bilinear), crop "
            f"{size}x{size} pixels from the middle, and normalize them by ImageNet's mean and "
            "standard deviation (`bagnet.normalize`). `config.json` says this in timm's words."
        ),
        data=_filled(_data(model, config.get("data"))),
        figures=_filled(_figures(run, checkpoint) if run else "Not known."),
        recipe=_recipe(run, config) if run else f"Not known: weights of {checkpoint.name}.",
        limits=limits,
    )


def _settings(run: Run) -> dict[str, Any]:
    """The configuration of a run."""
    config = read_yaml(run.config)
    if not isinstance(config, dict) or not {"trainer", "model", "data"} <= config.keys():
        raise ValueError(f"{run.config} is not the configuration of a run: restore it")
    return config


def _filled(paragraph: str) -> str:
    """A paragraph in lines."""
    return textwrap.fill(paragraph, 100, break_long_words=False, break_on_hyphens=False)


def _run_of(checkpoint: Path) -> Run | None:
    """The run that a checkpoint belongs to; None if it is only a file."""
    folder = checkpoint.absolute().parent
    run = Run(folder.parent.name, folder.parent.parent)
    return run if folder.name == run.checkpoints.name and run.config.is_file() else None


def _data(model: nn.Module, data: Mapping[str, Any] | None) -> str:
    """Classes and numbers of images."""
    card, count = card_of(model), classifier_of(model).out_features
    names = card.class_names or card.classes
    text = f"{count:,} classes" + (f": {', '.join(names)}." if names and count <= FEW else ".")
    if data is not None:
        with contextlib.suppress(ValueError):  # the shards may be elsewhere today
            root = user_path(data["root"])
            train, val = (Manifest.load(root / split) for split in ("train", "val"))
            if train.classes == card.classes:
                text += (
                    f" Trained on {train.num_samples:,} images, validated on {val.num_samples:,}."
                )
    return text


def _figures(run: Run, checkpoint: Path) -> str:
    """The validation of this checkpoint, from the run's table."""
    saved = torch.load(checkpoint, map_location="meta", weights_only=True, mmap=True)
    step = saved["global_step"] - 1  # that of the table
    table = CSVTable(run.metrics, Lease(run.starts))
    rows = [row for row in table.between(step - 1, step + 1) if "val/loss" in row]
    if not rows:
        return "Not known: this checkpoint was not validated."
    figures = rows[-1]
    return f"Validation after epoch {int(figures['epoch']) + 1}: {describe(figures, 'val')}."


def _recipe(run: Run, config: Mapping[str, Any]) -> str:
    """The commit of a run, and its settings as a config for train.py."""
    recipe: dict[str, Any] = {"seed_everything": config.get("seed_everything")}
    for part in ("trainer", "model", "data"):
        recipe[part] = {
            key: value
            for key, value in config.get(part, {}).items()
            if value is not None
            and (key in TRAINER if part == "trainer" else key not in PLACES[part])
        }
    commit = latest_start(run.starts).get("git_commit")
    weights = config.get("model", {}).get("weights")
    text = _filled(
        (f"Trained at commit {commit}" if commit else "Trained")
        + (f", from the weights {Path(weights.split('?')[0]).name}, " if weights else " ")
        + "by `python train.py --config FILE --data.root SHARDS` with this config:"
    )
    return f"{text}\n\n```yaml\n{yaml.safe_dump(recipe, sort_keys=False)}```"
