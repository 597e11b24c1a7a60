"""Bad samples: what they are, and how they are told.

A sample is unreadable where its shard is gone or cut short, where its bytes are not those that the
manifest vouches for, where it is no whole image or one of too many pixels, or where its label is
none. Its place in the batch is filled with a plain grey image that has the label `UNREADABLE`, for
which there is no loss and no hit or miss. So all ranks go on in step, and what is in the other
places does not depend on it. Errors of the code are never taken for bad data.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Sequence

SECONDS_BETWEEN_LINES = 10.0

log = logging.getLogger("datamodules")


class SampleError(ValueError):
    """A sample that cannot be used: the data is at fault, not the code.

    Args:
        sample_id: Its number in the manifest.
        key: Its name.
        shard: Where it lies, fit for a log.
        cause: What is wrong with it.
    """

    def __init__(self, sample_id: int, key: str, shard: str, cause: str) -> None:
        super().__init__(sample_id, key, shard, cause)  # all of them, for pickle
        self.sample_id, self.key, self.shard, self.cause = sample_id, key, shard, cause

    def __str__(self) -> str:
        return f"cannot read sample {self.key!r} of {self.shard}: {self.cause}"


class UnreadableLog:
    """Names unreadable samples in the log, with a running count.

    Of many, one line every ten seconds is a warning; all others are of the level INFO.
    """

    def __init__(self) -> None:
        self.count = 0
        self._next_line = 0.0

    def tell(self, errors: Sequence[SampleError]) -> None:
        """Count and log these."""
        for error in errors:
            self.count += 1
            level = logging.INFO
            if time.monotonic() >= self._next_line:
                level, self._next_line = logging.WARNING, time.monotonic() + SECONDS_BETWEEN_LINES
            log.log(level, "%s (left out; %d so far in this process)", error, self.count)
