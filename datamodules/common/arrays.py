"""Arrays in files of NumPy."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from datamodules.common.reading import require_plain


def map_array(path: Path) -> np.ndarray:
    """Map an array into memory, read-only.

    Raises:
        ValueError: It is not a file of NumPy, is cut short, or has Python objects.
        OSError: The file cannot be opened.
    """
    require_plain(path)
    try:
        array: np.ndarray = np.load(path, mmap_mode="r", allow_pickle=False)
    except Exception as error:  # NumPy parses the header as Python does, which raises anything
        if isinstance(error, OSError) and error.errno is not None:
            raise
        reason = (str(error) or type(error).__name__).splitlines()[0][:120]
        raise ValueError(f"{path.name} is no array of NumPy ({reason})") from None
    return array
