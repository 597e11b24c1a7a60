"""Errors that more than one package raises or handles. Imports nothing heavy."""

from __future__ import annotations

import errno

DISK_FULL = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})
"""`errno` of an `OSError` that says a file cannot grow: full disk, quota, limit on file size."""


class SampleError(ValueError):
    """A sample that cannot be used: the data is at fault, not the code.

    Its shard is missing or cut short, its bytes are not those in the manifest, it is not a complete
    image or has too many pixels, or it has no valid label.

    Args:
        sample_id: Its number in the manifest.
        key: Its name.
        shard: Path or URL of its shard, without secrets.
        cause: What is wrong with it.
    """

    def __init__(self, sample_id: int, key: str, shard: str, cause: str) -> None:
        super().__init__(sample_id, key, shard, cause)  # all of them, for pickle
        self.sample_id, self.key, self.shard, self.cause = sample_id, key, shard, cause

    def __str__(self) -> str:
        return f"cannot read sample {self.key!r} of {self.shard}: {self.cause}"
