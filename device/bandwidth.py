"""How fast this machine reads memory in order: no model can read its weights faster."""

import mmap
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from embernet.device.cpu import last_level_cache_bytes
from embernet.runtime.available_memory import available_bytes
from embernet.runtime.native_library import memory_reader

BUFFER_BYTES = 256 * 2**20
# What is read must not come from a cache.
CACHES = 4
PASSES = 10
_LINE = 64


@dataclass(frozen=True)
class ReadBandwidth:
    """The fastest pass over `size_bytes` of `source`: "weights" (the mapped file) or "buffer" (anonymous memory)."""

    bytes_per_second: float
    source: str
    size_bytes: int


def read_bandwidth(weights: Path, threads: int) -> ReadBandwidth | None:
    """Measure with so many threads, on pages of 4 KiB: the mapped weights themselves if no cache holds them.

    None without the native library, or without memory. Memory for a buffer is taken only while this runs.
    """
    read = memory_reader()
    if read is None:
        return None
    beyond_caches = CACHES * (last_level_cache_bytes() or BUFFER_BYTES // CACHES)
    available = available_bytes()
    room = sys.maxsize if available is None else available // 2
    # Of more than stays in memory every pass would come from the disk.
    size = min(weights.stat().st_size, room)
    if size >= beyond_caches:
        memory: NDArray[np.uint8] = np.memmap(weights, np.uint8, "r")[:size]
        return ReadBandwidth(_fastest(read, memory, threads), "weights", size)
    size = min(max(BUFFER_BYTES, beyond_caches), room)
    if size < threads * _LINE:
        return None
    return ReadBandwidth(_fastest(read, _buffer(size), threads), "buffer", size)


def _buffer(size: int) -> NDArray[np.uint8]:
    """Private pages, small ones as those of a mapped file are, and written, as unwritten ones are all the same page."""
    pages = mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    if hasattr(mmap, "MADV_NOHUGEPAGE"):
        pages.madvise(mmap.MADV_NOHUGEPAGE)
    memory = np.frombuffer(pages, np.uint8)
    memory.fill(1)
    return memory


def _fastest(read: Callable[[int, int], int], memory: NDArray[np.uint8], threads: int) -> float:
    """Bytes per second of the fastest pass; each thread reads a part of its own. ctypes lets them run at once."""
    part = memory.nbytes // threads // _LINE * _LINE
    addresses = [memory.ctypes.data + thread * part for thread in range(threads)]
    best = 0.0
    with ThreadPoolExecutor(threads) as pool:
        for _ in range(1 + PASSES):  # the first brings the pages in
            started = time.perf_counter()
            list(pool.map(read, addresses, [part] * threads))
            best = max(best, threads * part / (time.perf_counter() - started))
    return best
