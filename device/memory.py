"""Memory of this machine and of this process, as Linux counts it."""

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from embernet.runtime.available_memory import kilobyte_fields, meminfo

__all__ = ["MemoryUse", "meminfo", "memory_use", "read_into_page_cache"]


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
    status = kilobyte_fields(Path("/proc/self/status"))
    rollup = kilobyte_fields(Path("/proc/self/smaps_rollup"))
    if not {"VmRSS", "VmHWM"} <= status.keys() or not {"Pss", "Anonymous"} <= rollup.keys():
        return None
    return MemoryUse(status["VmRSS"], rollup["Pss"], rollup["Anonymous"], status["VmHWM"])


def read_into_page_cache(paths: Iterable[Path]) -> None:
    """Read files once, so that what is measured next does not wait for a disk."""
    for path in paths:
        with path.open("rb") as file:
            while file.read(2**20):
                pass
