"""The commands of the README and of pages for beginners run, in order, each page in a new folder.

None of their output looks like a fault. The README's `sbatch` is run by
`tests/slurm/test_own_scripts.py`, and its Python by `tests/test_wheel.py`.
"""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest
import torch

from bagnet.model.registry import build_model
from tests.conftest import colour_jpeg
from tests.datamodules.pack.builders import image, tar_of, write
from tests.datamodules.pack.test_archives import DEVKIT, TRAIN, WNIDS, devkit
from tests.datamodules.pack.test_wds import sample, write_wds
from tests.test_project import REPOSITORY, commands_of
from tests.wheel import live_with, site

__all__ = ["site"]

FAULTS = re.compile(r"Traceback|Exception ignored|Warning|leaked|\r|\x1b|\d+/\d+ \[")
"""What no output may have: tracebacks, warnings, and bars where there is no terminal."""

PAGES = [
    "README.md",
    *(f"docs/{name}.md" for name in ("getting-started", "training", "recipes", "experiments")),
]
SIZES = "--data.image_size 64 --data.resize_size 64"
TINY = "--model.width 4 --data.batch_size 8 --data.workers 1 --trainer.max_epochs 1"
IN_SMALL = {
    "/data/": "data/",
    " --gpus 8": " --gpus 0",
    " --compile": "",  # takes minutes: tests/bagnet/training/test_ranks.py
    " --gpus 1": " --gpus 0",
    "--nproc_per_node 8": "--nproc_per_node 2",
    "wandb leet ": "wandb leet inspect --summary ",  # it would wait for keys
    "wandb sync ": "wandb sync --dry-run ",  # it would need an account
    "--model.weights bagnet33 ": "--model.weights bagnet33.pth.tar ",  # the authors' file
    " --dense true": "",
    "IMAGES": "data/imagenet/val",
}
"""Words of commands, and what stands for them on a small machine."""


def in_small(command: str, number: int) -> str:
    """The same command for a small machine, with small images and networks."""
    for words, instead in IN_SMALL.items():
        command = command.replace(words, instead)
    if re.search("(validate|predict|export) --name|--help", command):
        return command  # the run's own settings
    sizes = "" if "demo" in command else SIZES  # the demo's planted boxes hold at one size only
    if "train.py" in command and "validate" not in command:
        more = " --trainer.max_epochs 2" if "--resume" in command else ""  # something is left
        return f"{command} {sizes} {TINY} --trainer.accelerator cpu{more}"
    if "validate" in command:
        return f"{command} {SIZES} --model.width 4 --trainer.accelerator cpu"
    if "bagnet.experiments" in command and "--models" in command:
        return f"{command} {sizes} --limit 6"
    if "datamodules.demo" in command:
        return f"{command} --train 18 --val 9"
    if re.search("pack (ilsvrc|wds)", command):
        return f"{command}-{number}"  # beside the shards of the folder with images
    return command


def demo_commands() -> list[str]:
    """What `make demo` runs after the setup."""
    make = ["make", "-n", "demo"]
    shown = subprocess.run(make, cwd=REPOSITORY, capture_output=True, text=True, check=True).stdout
    text = re.sub(r"\S*bin/python", "python", shown.replace("\\\n", " "))
    return re.findall(r"^python (?:train|-m (?:datamodules|bagnet)).*$", text, re.MULTILINE)


@pytest.fixture
def workplace(tmp_path: Path) -> Path:
    """A folder with what the README's commands read."""
    rng = np.random.default_rng(0)
    for split, count in {"train": 12, "val": 4}.items():
        for label in range(6):
            for number in range(count):
                file = tmp_path / f"data/imagenet/{split}/n{label:08d}/{split}{label}_{number}.JPEG"
                write(file, colour_jpeg(label, rng))
    for name in ("imagenette", "photos"):
        (tmp_path / name).symlink_to(tmp_path / "data/imagenet")
    inner = [
        (f"{wnid}.tar", tar_of((f"{wnid}_{i}.JPEG", image(10 * at + i)) for i in range(4)))
        for at, wnid in enumerate(WNIDS)
    ]
    write(tmp_path / "data/downloads" / TRAIN, tar_of(inner))
    val = [(f"ILSVRC2012_val_{i:08d}.JPEG", image(100 + i)) for i in range(1, 4)]
    write(tmp_path / "data/downloads/ILSVRC2012_img_val.tar", tar_of(val))
    write(tmp_path / "data/downloads" / DEVKIT, devkit([1, 2, 3]))
    for name in ("train-0000", "validation-00"):
        samples = [sample(f"{name}{number}", number) for number in range(3)]
        write_wds(tmp_path / f"data/imagenet-1k-wds/imagenet1k-{name}.tar", samples)
    downloaded = tmp_path / "torch/hub/checkpoints"  # the network cannot be reached
    downloaded.mkdir(parents=True)
    for file, name in {
        tmp_path / "bagnet33.pth.tar": "bagnet33",
        downloaded / "resnet50-0676ba61.pth": "resnet50",
        downloaded / "vgg16-397923af.pth": "vgg16",
    }.items():
        torch.save(build_model(name, num_classes=6, width=4).state_dict(), file)
    shutil.copytree(REPOSITORY / "configs", tmp_path / "configs")
    shutil.copy(REPOSITORY / "train.py", tmp_path)  # not a link, or Python would look beside it
    return tmp_path


PACK = "python -m datamodules.pack imagefolder /data/imagenet /data/shards"
RUN = "python train.py --patch 33 --data.root /data/shards"
BEFORE = {
    "docs/getting-started.md": [PACK],
    "docs/training.md": [PACK],
    "docs/experiments.md": [PACK, RUN],
}
"""What a page takes for done."""


@pytest.mark.slow
@pytest.mark.parametrize("page", PAGES)
def test_the_commands_of_a_page_run_and_their_output_has_no_fault(
    page, site, workplace, monkeypatch
):
    live_with(site, workplace / "home", monkeypatch)  # without an account of W&B, too
    monkeypatch.setenv("TORCH_HOME", str(workplace / "torch"))
    commands = [*BEFORE.get(page, []), *commands_of(page)]
    if "make demo" in commands:
        commands = [*demo_commands(), *commands]
    faults = []
    for number, command in enumerate(commands):
        if re.match("git clone|make|source|sbatch", command):
            continue
        done = subprocess.run(
            ["bash", "-c", in_small(command, number)],
            cwd=workplace,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            timeout=900,
        )
        output = done.stdout.decode()  # text=True would hide carriage returns
        found = [line for line in output.split("\n") if FAULTS.search(line)]
        if done.returncode or found:
            faults.append((command, done.returncode, found or output[-500:]))
    assert not faults, "\n".join(map(str, faults))
