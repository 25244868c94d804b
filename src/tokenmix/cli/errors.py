"""What is wrong with what was typed."""

from __future__ import annotations

import json
from typing import Any


class UsageError(Exception):
    """A mistake in what was typed; its message is printed, and the exit status is 2."""


def json_object(option: str, text: str) -> dict[str, Any]:
    """A JSON object that was typed.

    Raises:
        UsageError: anything else.

    Example:
        >>> json_object("--options", '{"window": 4}')
        {'window': 4}
    """
    try:
        found = json.loads(text)
    except json.JSONDecodeError as error:
        raise UsageError(f"{option}: expected a JSON object, found {text!r} ({error})") from error
    if not isinstance(found, dict):
        raise UsageError(f"{option}: expected a JSON object, found {text!r}")
    return found
