"""If ranks see different code or data, all of them end at once and name the nodes."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from bagnet.run.agreement import require_same

REPOSITORY = Path(__file__).parents[3]
HOST = socket.gethostname()
DIFFERENT = f"training data differs: d2 for rank 1 on {HOST}, d1 for rank 0 on {HOST}; make all"

RANK = """
import sys
from types import SimpleNamespace
import torch
from bagnet.run.agreement import require_same
rank, facts = int(sys.argv[1]), {"code": "c1", "training data": sys.argv[2]}
torch.distributed.init_process_group("gloo", rank=rank, world_size=2)
try:
    require_same(SimpleNamespace(world_size=2), facts)
except ValueError as error:
    print(error, flush=True)
torch.distributed.destroy_process_group()  # or gloo's threads may abort the process as it ends
"""


@pytest.mark.parametrize(("theirs", "message"), [("d1", ""), ("d2", DIFFERENT)])
def test_facts_that_differ_are_named(monkeypatch, theirs, message):
    def gather(everywhere, mine):
        everywhere[:] = [mine, (mine[0], {**mine[1], "training data": theirs})]

    monkeypatch.setattr(torch.distributed, "all_gather_object", gather)
    ours = {"code": "c1", "training data": "d1"}
    if not message:
        require_same(SimpleNamespace(world_size=2), ours)
        return
    with pytest.raises(ValueError, match=message):
        require_same(SimpleNamespace(world_size=2), ours)


@pytest.mark.slow
def test_ranks_that_differ_end_together():
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY)}
    environment |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    ranks = [
        subprocess.Popen(
            [sys.executable, "-c", RANK, str(rank), data],
            env=environment,
            stdout=subprocess.PIPE,
            text=True,
        )
        for rank, data in enumerate(("d1", "d2"))
    ]
    first, second = [rank.communicate(timeout=240)[0] for rank in ranks]
    assert first == second
    assert first.startswith(DIFFERENT)
