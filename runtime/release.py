"""Giving memory back to the system early: on a board of 512 MB the next step needs it.

Everything here is best effort: where the system offers no such call, nothing happens.
"""

import ctypes
import functools
import os
from pathlib import Path
from typing import Any, NamedTuple

_MADV_DONTNEED = 4  # Linux


class Range(NamedTuple):
    """Addresses of mapped pages, [start, end)."""

    start: int
    end: int


def mapped_ranges(path: Path) -> set[Range]:
    """Where this process has mapped a file, shared with nobody who writes; empty where /proc does not tell."""
    try:
        lines = Path("/proc/self/maps").read_text(errors="surrogateescape").splitlines()
    except OSError:
        return set()
    inode = str(path.stat().st_ino)
    ranges = set()
    for line in lines:
        addresses, permissions, _, _, mapped_inode, *name = line.split(maxsplit=5)
        if mapped_inode == inode and permissions.endswith("p") and name and name[0].endswith(path.name):
            start, end = addresses.split("-")
            ranges.add(Range(int(start, 16), int(end, 16)))
    return ranges


def release_pages(ranges: set[Range]) -> None:
    """Let go of mapped pages that nobody wrote to. When touched, they come from the page cache or the file again."""
    libc = _libc()
    if libc is not None:
        for start, end in ranges:
            libc.madvise(ctypes.c_void_p(start), ctypes.c_size_t(end - start), _MADV_DONTNEED)


def trim_heap() -> None:
    """Return free pages of the heap, which malloc would keep for later."""
    libc = _libc()
    if libc is not None and hasattr(libc, "malloc_trim"):  # glibc
        libc.malloc_trim(ctypes.c_size_t(0))


@functools.cache
def _libc() -> Any:
    return ctypes.CDLL(None) if os.uname().sysname == "Linux" else None
