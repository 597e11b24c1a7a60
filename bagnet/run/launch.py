"""Who starts the ranks (torchrun, srun, or Lightning), and whether they fit the devices."""

from __future__ import annotations

import os
import socket
from dataclasses import dataclass
from typing import Any

import torch
from lightning_fabric.plugins.environments.cluster_environment import ClusterEnvironment
from lightning_fabric.plugins.environments.lightning import LightningEnvironment
from lightning_fabric.plugins.environments.slurm import SLURMEnvironment
from lightning_fabric.plugins.environments.torchelastic import TorchElasticEnvironment

STRATEGIES = ("auto", "ddp", "ddp_find_unused_parameters_true")


@dataclass(frozen=True)
class _Started:
    """The processes that a launcher has started, which is one for each device."""

    launcher: str
    nodes: int
    on_each: int
    environment: ClusterEnvironment


def launch_settings(devices: Any, nodes: int) -> dict[str, Any]:
    """Find out who starts the ranks, which then says how many devices and nodes there are.

    Args:
        devices: The Trainer's `devices`; `"auto"` takes what torchrun or srun has started.
        nodes: The Trainer's `num_nodes`; 1 does the same.

    Returns:
        Arguments for the Trainer: `devices`, `num_nodes`, and the cluster environment as `plugins`.

    Raises:
        ValueError: The processes do not match the devices, or nobody would start them all.
    """
    if TorchElasticEnvironment.detect():
        started = _by_torchrun()
    elif int(os.environ.get("SLURM_STEP_NUM_TASKS", 1)) > 1:
        started = _by_srun()
    elif nodes > 1:
        raise ValueError(
            f"--nodes {nodes}: nothing starts the processes of the other nodes; use srun or "
            "torchrun, see slurm/README.md"
        )
    else:
        # A task that srun started alone, or the script of a job, starts the other ranks itself.
        return {"devices": devices, "num_nodes": 1, "plugins": [LightningEnvironment()]}
    wanted = int(devices) if str(devices).isdigit() else None
    if wanted not in (None, started.on_each) or nodes not in (1, started.nodes):
        raise ValueError(
            f"{started.launcher} started {started.on_each} processes on each of {started.nodes} "
            f"nodes, but the settings say {wanted or started.on_each} devices on {nodes}; each "
            f"device needs one process: --gpus {started.on_each} --nodes {started.nodes}"
        )
    return {
        "devices": started.on_each if wanted is None else devices,
        "num_nodes": started.nodes,
        "plugins": [started.environment],
    }


def _by_torchrun() -> _Started:
    on_each, nodes, world = (
        int(os.environ[name]) for name in ("LOCAL_WORLD_SIZE", "GROUP_WORLD_SIZE", "WORLD_SIZE")
    )
    programs = int(os.environ.get("SLURM_STEP_NUM_TASKS", 1))
    if programs > nodes:
        raise ValueError(
            f"srun started torchrun {programs} times for {nodes} nodes, so several would train "
            f"alone; start one for each node, with --nnodes {programs} and without --standalone"
        )
    if world != on_each * nodes:
        raise ValueError(
            f"torchrun started {world} processes on {nodes} nodes; give each the same "
            "--nproc_per_node"
        )
    return _Started("torchrun", nodes, on_each, TorchElasticEnvironment())


def _by_srun() -> _Started:
    each = os.environ["SLURM_STEP_TASKS_PER_NODE"]  # such as 8(x2), or 8,7 if they differ
    nodes, on_each = int(os.environ["SLURM_STEP_NUM_NODES"]), int(each.split("(")[0].split(",")[0])
    if "," in each:
        raise ValueError(
            f"srun started {each} tasks on {nodes} nodes; give it the same number for each: "
            "--ntasks-per-node"
        )
    if on_each > 1 and "SLURM_GPUS_PER_TASK" in os.environ:
        raise ValueError(
            "with --gpus-per-task each task sees only one GPU, but numbers it as one of several; "
            f"use --gpus-per-node={on_each} instead"
        )
    # Lightning reads these. srun sets the first only if it was an option, of sbatch perhaps.
    os.environ["SLURM_NTASKS_PER_NODE"] = str(on_each)
    os.environ["SLURM_NNODES"] = str(nodes)
    # Lightning requeues a job by saving inside its signal handler; LastCheckpoint saves between
    # two batches instead.
    return _Started("srun", nodes, on_each, SLURMEnvironment(auto_requeue=False))


def meet_on_this_node(environment: Any, is_first: bool) -> Any:
    """Let ranks that are all on one node listen to that node only, not to the whole network.

    Under torchrun, where the ranks meet is torchrun's own. NCCL chooses its interface itself.

    Args:
        environment: The cluster environment.
        is_first: Whether this is rank 0, where the ranks meet.

    Returns:
        On rank 0, the server: torch takes it, while it is kept, when asked for one on its port.
    """
    loopback = {name for _, name in socket.if_nameindex()} & {"lo", "lo0"}
    if loopback:
        os.environ.setdefault("GLOO_SOCKET_IFNAME", loopback.pop())
    if isinstance(environment, TorchElasticEnvironment):
        return None
    os.environ["MASTER_ADDR"] = "127.0.0.1"
    if not is_first:
        return None
    port = environment.main_port
    return torch.distributed.TCPStore(  # type: ignore[attr-defined]
        "127.0.0.1",
        port,
        is_master=True,
        wait_for_workers=False,
        multi_tenant=True,
        master_listen_fd=socket.create_server(("127.0.0.1", port), backlog=4096).detach(),
    )


def check_strategy(strategy: Any) -> None:
    """Refuse strategies under which a training would not work.

    Raises:
        ValueError: The ranks would not be programs of their own, or not have the whole network.
    """
    if strategy not in STRATEGIES:
        name = strategy if isinstance(strategy, str) else type(strategy).__name__
        raise ValueError(
            f"--trainer.strategy {name}: each rank must be a program of its own that has the "
            f"whole network; choose {', '.join(STRATEGIES[:-1])} or {STRATEGIES[-1]}"
        )
