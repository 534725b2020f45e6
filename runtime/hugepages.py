"""Weights in huge pages, for servers that have the memory for a copy: small pages cost some of the bandwidth."""

import ctypes
from collections.abc import Iterable
from pathlib import Path

from embernet.errors import InputError, OutOfMemoryError
from embernet.runtime.release import Range

_SWITCH = Path("/sys/kernel/mm/transparent_hugepage/enabled")
_READ_WRITE = 3
_PRIVATE_ANONYMOUS_FIXED = 0x02 | 0x20 | 0x10
_MADV_HUGEPAGE = 14


def require_huge_pages() -> None:
    """InputError unless this system gives huge pages to who asks for them."""
    try:
        chosen = _SWITCH.read_text().split("[")[1].split("]")[0]
    except (OSError, IndexError):
        chosen = "none"
    if chosen not in ("always", "madvise"):
        raise InputError(
            f"huge pages: not available here (found {chosen!r} in {_SWITCH}, expected 'madvise' or 'always')",
            hint="run without --hugepages",
        )


def move_to_huge_pages(ranges: Iterable[Range]) -> None:
    """Replace mapped pages of a file by a copy at the same addresses, in huge pages as far as they fit.

    Nothing may use these addresses meanwhile.
    """
    libc = ctypes.CDLL(None, use_errno=True)
    libc.mmap.restype = ctypes.c_void_p
    libc.mmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t, *[ctypes.c_int] * 3, ctypes.c_long]
    for start, end in ranges:
        size = end - start
        content = ctypes.string_at(start, size)
        if libc.mmap(start, size, _READ_WRITE, _PRIVATE_ANONYMOUS_FIXED, -1, 0) != start:
            raise OutOfMemoryError(f"huge pages: no room for a copy of {size} bytes of weights")
        libc.madvise(ctypes.c_void_p(start), ctypes.c_size_t(size), _MADV_HUGEPAGE)
        ctypes.memmove(start, content, size)
