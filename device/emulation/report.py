"""How the inside of the emulated machine tells the outside something: lines on the console."""

import json
import sys
from typing import Any

RESULT = "result: "  # before the JSON of one step, on a line of its own
STAGE = "stage: "  # before the name of what a watched program does from here on


def say(line: str) -> None:
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()


def report(value: Any) -> None:
    say(RESULT + json.dumps(value))
