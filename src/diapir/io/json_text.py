"""JSON as every program reads it: without NaN and infinity, which its grammar does not know."""

import json
import math
from typing import Any


def json_text(value: Any) -> str:
    """Return a value as indented JSON; NaN and infinity become null.

    >>> print(json_text({"score": float("nan"), "tiles": (1, 2)}))
    {
      "score": null,
      "tiles": [
        1,
        2
      ]
    }
    """
    return json.dumps(_plain(value), indent=2, allow_nan=False)


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
