"""The check of a setting's range, for settings from the command line, a config or Python alike."""

from __future__ import annotations

import math


def require_range(name: str, value: float, least: float, most: float = math.inf) -> None:
    """Refuse a number outside of a range, and NaN and infinity.

    Raises:
        ValueError: It names the setting, its value and the range.
    """
    if not (math.isfinite(value) and least <= value <= most):
        wanted = f"at least {least:g}" if math.isinf(most) else f"from {least:g} to {most:g}"
        raise ValueError(f"{name} is {value:g}, but must be {wanted}")
