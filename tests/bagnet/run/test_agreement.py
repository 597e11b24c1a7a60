"""Ranks that see different code or data end at once, on all of them, with the nodes named."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from pathlib import Path

REPOSITORY = Path(__file__).parents[3]

RANK = """
import sys
from types import SimpleNamespace
import torch
from bagnet.run.agreement import require_same
rank, facts = int(sys.argv[1]), {"code": sys.argv[2], "training data": sys.argv[3]}
torch.distributed.init_process_group("gloo", rank=rank, world_size=2)
try:
    require_same(SimpleNamespace(world_size=2), facts)
    print("same", flush=True)
except ValueError as error:
    print(error, flush=True)
torch.distributed.destroy_process_group()  # or gloo's threads may abort the process as it ends
"""


def ranks(*facts: tuple[str, str]) -> list[str]:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY)}
    environment |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", RANK, str(rank), *fact],
            env=environment,
            stdout=subprocess.PIPE,
            text=True,
        )
        for rank, fact in enumerate(facts)
    ]
    return [process.communicate(timeout=120)[0].strip() for process in processes]


def test_ranks_that_see_the_same_go_on():
    assert ranks(("c1", "d1"), ("c1", "d1")) == ["same", "same"]


def test_ranks_that_do_not_end_together_with_the_node_named():
    host = socket.gethostname()
    first, second = ranks(("c1", "d1"), ("c1", "d2"))
    assert first == second
    assert first.startswith(
        f"rank 1 on {host} has other training data than rank 0 on {host} (d2 and d1)"
    )
