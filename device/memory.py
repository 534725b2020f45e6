"""Memory of a process and of the machine, as Linux counts it."""

import os
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from embernet.runtime.available_memory import kilobyte_fields


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
    status, rollup = kilobyte_fields(folder / "status"), kilobyte_fields(folder / "smaps_rollup")
    if not {"VmRSS", "VmHWM"} <= status.keys() or not {"Pss", "Anonymous"} <= rollup.keys():
        return None
    return MemoryUse(status["VmRSS"], rollup["Pss"], rollup["Anonymous"], status["VmHWM"])


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
