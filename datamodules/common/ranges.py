"""The check of a setting's range, for settings from the command line, a config or Python alike."""

from __future__ import annotations

import math

YEAR = 525_600
"""Minutes; more of them are a mistake, and may not fit where the system counts them."""


def require_range(name: str, value: float, least: float, most: float = math.inf) -> None:
    """Refuse a number outside of a range, and NaN and infinity.

    Raises:
        ValueError: It names the setting, its value and the range.
    """
    if not (math.isfinite(value) and least <= value <= most):
        least_most = f"from {_shown(least)} to {_shown(most)}"
        wanted = f"at least {_shown(least)}" if math.isinf(most) else least_most
        raise ValueError(f"{name} is {_shown(value)}, but must be {wanted}")


def _shown(value: float) -> str:
    return f"{value:,}" if isinstance(value, int) else f"{value:g}"
