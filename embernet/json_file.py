"""JSON that a user or a stranger wrote, and text that goes into it."""

import json
from pathlib import Path
from typing import Any

from embernet.errors import InputError


def read_json_object(path: Path) -> dict[str, Any]:
    """Read a JSON file that holds an object; InputError otherwise."""
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise InputError(f"{path}: no such file") from None
    except (OSError, ValueError, RecursionError) as error:
        raise InputError(f"{path}: not readable as JSON ({error})") from None
    if not isinstance(values, dict):
        raise InputError(f"{path}: expected a JSON object")
    return values


def printable(text: str) -> str:
    """Text in which bytes that are no text, as the name of a file may hold, are written as JSON writes them."""
    return text.encode("utf-8", "backslashreplace").decode()
