"""The figures of a run as JSON lines: one object per line, in the order of the steps."""

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import IO

METRICS_FILE = "metrics.jsonl"


class MetricsLog:
    """Appends to a file; what a killed run wrote after `last_step` is dropped, so that no step is there twice."""

    def __init__(self, path: Path, last_step: int) -> None:
        kept = [line for line in _whole_lines(path) if json.loads(line)["step"] <= last_step]
        part = path.with_name(f".{path.name}.part{os.getpid()}")
        part.write_text("".join(kept), encoding="utf-8")
        part.replace(path)
        self._file: IO[str] = open(path, "a", encoding="utf-8")  # noqa: SIM115  (closed by `close`)

    def write(self, step: int, values: Mapping[str, float]) -> None:
        self._file.write(json.dumps({"step": step, **values}, allow_nan=False) + "\n")
        self._file.flush()

    def close(self) -> None:
        self._file.close()


def _whole_lines(path: Path) -> list[str]:
    """The lines of a file that may end in half of one."""
    if not path.exists():
        return []
    return [line for line in path.read_text(encoding="utf-8").splitlines(keepends=True) if line.endswith("\n")]
