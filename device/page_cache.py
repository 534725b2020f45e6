"""Files that the kernel holds in memory, and having it forget them."""

import ctypes
import mmap
import os
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

import numpy as np

# Of the pages: so few do not change what a first read takes.
_MAY_STAY = 0.01


def drop_from_page_cache(paths: Iterable[Path]) -> bool:
    """Have the kernel forget what these files hold, and tell whether it did.

    False of files that lie in memory (tmpfs), that another program has mapped, or that this user may not write: of
    those the kernel does not tell.
    """
    cached, pages = np.sum([_drop(path) for path in paths], axis=0)
    return bool(cached <= _MAY_STAY * pages)


def _drop(path: Path) -> tuple[int, int]:
    """Forget one file; how many of its pages are still in memory, and how many it has."""
    with path.open("rb") as file:
        size = os.fstat(file.fileno()).st_size
        if size == 0:
            return 0, 0
        with suppress(OSError):  # of a file system that cannot be written
            os.fsync(file.fileno())  # what is not on the disk yet cannot be forgotten
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
        with mmap.mmap(file.fileno(), size, access=mmap.ACCESS_READ) as view:
            states = np.ones(-(-size // mmap.PAGESIZE), np.uint8)
            mapped = np.frombuffer(view, np.uint8)
            addresses = [ctypes.c_void_p(array.__array_interface__["data"][0]) for array in (mapped, states)]
            failed = ctypes.CDLL(None).mincore(addresses[0], ctypes.c_size_t(size), addresses[1])
            del mapped  # or the mapping cannot be closed
    return states.size if failed else int((states & 1).sum()), states.size
