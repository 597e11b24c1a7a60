"""Tells the user which samples could not be read.

In the batch, the place of such a sample holds a plain grey image with the label `UNREADABLE`, which
neither the loss nor any metric sees. All ranks stay in step, and the rest of the batch is the same.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Sequence

from datamodules.common.errors import SampleError

SECONDS_BETWEEN_LINES = 10.0

log = logging.getLogger("datamodules")


class UnreadableLog:
    """Names unreadable samples in the log, with a running count.

    If there are many, one line every ten seconds is a warning; the others have the level INFO.
    """

    def __init__(self) -> None:
        self.count = 0
        self._next_line = 0.0

    def tell(self, errors: Sequence[SampleError]) -> None:
        """Count and log these errors."""
        for error in errors:
            self.count += 1
            level = logging.INFO
            if time.monotonic() >= self._next_line:
                level, self._next_line = logging.WARNING, time.monotonic() + SECONDS_BETWEEN_LINES
            log.log(level, "%s (left out; %d so far in this process)", error, self.count)
