"""A job's task that is asked to stop again and again: `python short_steps.py TIMES FLAGS...`.

After each stop it resumes the training in the same process, which saves the time of the imports.
Steps are so short that a rank may stop because of the other one's signal, before its own arrives.
It waits for that, or it would count for the next stop.
"""

from __future__ import annotations

import signal
import sys

from torch import nn

from bagnet.run import signals
from bagnet.training import network_module
from bagnet.training.command_line.command import main


def quick(name: str, num_classes: int, width: int) -> nn.Module:
    """Replaces a BagNet, whose fifty layers would take longer than a step should last here."""
    return nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(3, num_classes))


if __name__ == "__main__":
    network_module.build_model = quick
    arrived: list[int] = []
    signal.signal(signal.SIGUSR1, lambda number, frame: arrived.append(number))
    for stop in range(int(sys.argv[1])):
        arrived.clear()
        code = main(sys.argv[2:])
        while signals.received() is None and not arrived:
            signal.sigtimedwait([], 0.01)  # only waits; the handler above runs
        print(f"stop {stop}: {code}", flush=True)
