"""Memory of this process, as Linux counts it."""

import os
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


def memory_use() -> MemoryUse | None:
    """What this process uses now; None where /proc does not tell."""
    status = _fields(Path("/proc/self/status"))
    rollup = _fields(Path("/proc/self/smaps_rollup"))
    if not {"VmRSS", "VmHWM"} <= status.keys() or not {"Pss", "Anonymous"} <= rollup.keys():
        return None
    return MemoryUse(status["VmRSS"], rollup["Pss"], rollup["Anonymous"], status["VmHWM"])


def available_bytes() -> int | None:
    """Memory that this machine can still give out without swapping; None where /proc does not tell."""
    return meminfo().get("MemAvailable")


def meminfo(root: Path = Path("/")) -> dict[str, int]:
    """Bytes by name: "MemTotal", "MemAvailable", "SwapTotal"; empty where /proc does not tell."""
    return _fields(root / "proc/meminfo")


def swapped_out_bytes(root: Path = Path("/")) -> int | None:
    """What all programs together had to move out to swap since the start; None where /proc does not tell."""
    try:
        lines = (root / "proc/vmstat").read_text().splitlines()
    except OSError:
        return None
    pages = dict(line.split(maxsplit=1) for line in lines if " " in line)
    return int(pages["pswpout"]) * os.sysconf("SC_PAGE_SIZE") if "pswpout" in pages else None


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
