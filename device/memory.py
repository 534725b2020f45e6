"""Memory of this process, as Linux counts it."""

from dataclasses import dataclass
from pathlib import Path

_KB = 1024


@dataclass(frozen=True)
class MemoryUse:
    """Bytes. resident: all pages in memory; anonymous: those that no file backs; peak: the most ever resident."""

    resident_bytes: int
    anonymous_bytes: int
    peak_resident_bytes: int


def memory_use() -> MemoryUse | None:
    """What this process uses now; None where /proc does not tell."""
    status = _fields(Path("/proc/self/status"))
    rollup = _fields(Path("/proc/self/smaps_rollup"))
    if not {"VmRSS", "VmHWM"} <= status.keys() or "Anonymous" not in rollup:
        return None
    return MemoryUse(status["VmRSS"], rollup["Anonymous"], status["VmHWM"])


def _fields(path: Path) -> dict[str, int]:
    """Lines like `VmRSS:  1234 kB` as bytes by name."""
    try:
        lines = path.read_text().splitlines()
    except OSError:
        return {}
    parts = (line.split() for line in lines)
    return {p[0].rstrip(":"): int(p[1]) * _KB for p in parts if len(p) == 3 and p[2] == "kB"}
