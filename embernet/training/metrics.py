"""The figures of a run as JSON lines: one object per line, in the order of the steps."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import IO

from embernet.checkpoints import write_text
from embernet.errors import InputError

METRICS_FILE = "metrics.jsonl"


class MetricsLog:
    """Appends to a file; what a killed run wrote after `last_step` is dropped, so that no step is there twice."""

    def __init__(self, path: Path, last_step: int) -> None:
        write_text(path, "".join(line for line in _whole_lines(path) if _is_until(line, last_step)))
        self._file: IO[str] = open(path, "a", encoding="utf-8")  # noqa: SIM115  (closed by `close`)

    def write(self, step: int, values: Mapping[str, float]) -> None:
        self._file.write(json.dumps({"step": step, **values}, allow_nan=False) + "\n")
        self._file.flush()

    def close(self) -> None:
        self._file.close()


def read_metrics(path: Path) -> list[dict[str, float]]:
    """The figures of every step; InputError if there is no such file, or it is not one of a run."""
    if not path.is_file():
        raise InputError(f"{path}: no such file")
    try:
        metrics = [json.loads(line) for line in _whole_lines(path)]
    except (ValueError, RecursionError) as error:
        raise InputError(f"{path}: not readable as JSON lines ({error})") from None
    numbers = (int, float)
    for values in metrics:
        if not isinstance(values, dict) or "step" not in values or not all(type(v) in numbers for v in values.values()):
            raise InputError(f"{path}: not the figures of a run (found {values!r:.80})")
    if not metrics:
        raise InputError(f"{path}: holds no figures yet")
    return metrics


def _is_until(line: str, last_step: int) -> bool:
    try:
        return bool(json.loads(line)["step"] <= last_step)
    except (ValueError, TypeError, KeyError):  # what a machine leaves that loses its power
        return False


def _whole_lines(path: Path) -> list[str]:
    """The lines of a file that may end in half of one."""
    if not path.exists():
        return []
    return [line for line in path.read_text(encoding="utf-8").splitlines(keepends=True) if line.endswith("\n")]
