"""The example of docs/clusters.md: its YAML, its flags, and its command as Kubeflow runs it."""

from __future__ import annotations

import os
import re
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from torch.distributed.run import get_args_parser

from tests.test_project import accepted
from tests.trainings import REPOSITORY, TINY, table

PAGE = REPOSITORY / "docs" / "clusters.md"


@pytest.fixture
def page() -> tuple[dict[str, Any], dict[str, Any]]:
    """The runtime's pod and the job's trainer."""
    (text,) = re.findall(r"```yaml\n(.*?)```", PAGE.read_text(), re.DOTALL)
    runtime, job = yaml.safe_load_all(text)
    assert (runtime["kind"], job["kind"]) == ("TrainingRuntime", "TrainJob")
    assert job["spec"]["runtimeRef"] == {
        "kind": runtime["kind"],
        "name": runtime["metadata"]["name"],
    }
    (nodes,) = runtime["spec"]["template"]["spec"]["replicatedJobs"]
    assert nodes["name"] == "node"
    return nodes["template"]["spec"]["template"]["spec"], job["spec"]["trainer"]


def command(trainer: dict[str, Any]) -> list[str]:
    words = [*trainer["command"], *trainer["args"]]
    assert all(isinstance(word, str) for word in words)
    return words


def test_the_flags_exist_and_their_folders_are_mounted(page, capsys):
    pod, trainer = page
    torchrun, *words = command(trainer)
    assert torchrun == "torchrun"
    options = get_args_parser().parse_args(words)
    assert options.training_script == "train.py"
    resolved = yaml.safe_load(accepted(options.training_script_args, capsys))
    (container,) = pod["containers"]
    mounts = {mount["name"]: Path(mount["mountPath"]) for mount in container["volumeMounts"]}
    assert mounts.keys() == {volume["name"] for volume in pod["volumes"]}
    assert mounts["shards"] in Path(resolved["data"]["root"]).parents
    variables = {variable["name"]: variable.get("value") for variable in trainer["env"]}
    assert variables["BAGNET_RUNS"] == str(mounts["runs"])


def test_what_the_image_copies_exists():
    (image,) = re.findall(r"```dockerfile\n(.*?)```", PAGE.read_text(), re.DOTALL)
    for words in re.findall(r"^COPY (.*) \S+$", image, re.MULTILINE):
        for name in words.split():
            assert (REPOSITORY / name).exists(), name


@pytest.mark.slow
def test_two_pods_train_together_and_a_restarted_job_resumes(page, shards, tmp_path):
    """With the variables that Kubeflow gives torchrun, and a process for each pod's torchrun."""
    _, trainer = page
    _, script, *words = command(trainer)
    small = ["--data.root", str(shards), *TINY, "--trainer.max_epochs", "1"]
    words = ["-m", "torch.distributed.run", str(REPOSITORY / script), *words, *small]
    for start in range(2):
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        pods = [
            subprocess.Popen(
                [sys.executable, *words],
                cwd=tmp_path,
                env={
                    **os.environ,
                    "PYTHONPATH": str(REPOSITORY),
                    "BAGNET_RUNS": str(tmp_path),
                    "PET_NNODES": str(trainer["numNodes"]),
                    "PET_NPROC_PER_NODE": "1",
                    "PET_NODE_RANK": str(node),
                    "PET_MASTER_ADDR": "127.0.0.1",
                    "PET_MASTER_PORT": str(port),
                },
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
            )
            for node in range(trainer["numNodes"])
        ]
        said = [pod.communicate(timeout=300)[0] for pod in pods]
        assert [pod.returncode for pod in pods] == [0, 0], said
        assert ("2 x cpu" if start == 0 else "is complete: 1 of 1 epochs") in said[0]
    assert table("bagnet33", str(tmp_path))[-1]["val/top1"]
