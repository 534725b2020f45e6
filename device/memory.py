"""Memory of a process and of the machine, as Linux counts it."""

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

_KB = 1024


@dataclass(frozen=True)
class MemoryUse:
    """Bytes. resident: all pages in memory; anonymous: those that no file backs; peak: the most ever resident.

    proportional: resident, but a page that several processes share counts for each of them in part.
    """

    resident_bytes: int
    proportional_bytes: int
    anonymous_bytes: int
    peak_resident_bytes: int


def memory_use(process: int | None = None) -> MemoryUse | None:
    """What a process uses now (None = this one); None where /proc does not tell, as when it has ended."""
    folder = Path("/proc", "self" if process is None else str(process))
    status, rollup = _fields(folder / "status"), _fields(folder / "smaps_rollup")
    if not {"VmRSS", "VmHWM"} <= status.keys() or not {"Pss", "Anonymous"} <= rollup.keys():
        return None
    return MemoryUse(status["VmRSS"], rollup["Pss"], rollup["Anonymous"], status["VmHWM"])


def available_bytes() -> int | None:
    """Memory that this machine can still give out without swapping; None where /proc does not tell."""
    return meminfo().get("MemAvailable")


def meminfo(root: Path = Path("/")) -> dict[str, int]:
    """Bytes by name: "MemTotal", "MemAvailable", "SwapTotal"; empty where /proc does not tell."""
    return _fields(root / "proc/meminfo")


def read_into_page_cache(paths: Iterable[Path]) -> None:
    """Read files once, so that what is measured next does not wait for a disk."""
    for path in paths:
        with path.open("rb") as file:
            while file.read(2**20):
                pass


def _fields(path: Path) -> dict[str, int]:
    """Lines like `VmRSS:  1234 kB` as bytes by name."""
    try:
        lines = path.read_text().splitlines()
    except OSError:
        return {}
    parts = (line.split() for line in lines)
    return {p[0].rstrip(":"): int(p[1]) * _KB for p in parts if len(p) == 3 and p[2] == "kB"}
