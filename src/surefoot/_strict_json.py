"""Numbers that strict JSON does not know, NaN and the infinities: they travel as words."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

_NON_FINITE = {"nan": math.nan, "inf": math.inf, "-inf": -math.inf}


def encode(value: Any) -> Any:
    """Plain values, with a word for every number that is not finite."""
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    if isinstance(value, dict):
        return {key: encode(v) for key, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [encode(v) for v in value]
    return value


def decode(value: Any, sequence: Callable[[list[Any]], Any] = list) -> Any:
    """What :func:`encode` was given; lists become a ``sequence``."""
    if isinstance(value, str):
        return _NON_FINITE.get(value, value)
    if isinstance(value, dict):
        return {key: decode(v, sequence) for key, v in value.items()}
    if isinstance(value, list):
        return sequence([decode(v, sequence) for v in value])
    return value
