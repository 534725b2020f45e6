"""`weights.bin`: the tensors of all graphs of a bundle, one after another, written as they come.

A tensor of several pages starts on a page, so that a runtime can map, prefetch and drop it by itself; smaller ones
start on a cache line. A tensor that two graphs share is written once.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import IO

import numpy as np
from numpy.typing import NDArray

from embernet.runtime.bundle import WEIGHTS_FILE
from embernet.runtime.packing import GROUP_BYTES, PAGE

PAGE_ALIGNED_FROM = 4 * PAGE


@dataclass(frozen=True)
class StoredTensor:
    """Where a tensor lies in `weights.bin`, in bytes."""

    offset: int
    length: int


class WeightsWriter:
    """Appends tensors to an open file.

    bytes_by_kind: what was written as `ternary`, `int8` and `float`; levels: ternary weights that are -1, 0 and +1.
    """

    def __init__(self, folder: Path) -> None:
        self._file: IO[bytes] = open(folder / WEIGHTS_FILE, "xb")  # noqa: SIM115
        self._stored: dict[str, StoredTensor] = {}
        self.bytes_by_kind = {"ternary": 0, "int8": 0, "float": 0}
        self.levels = np.zeros(3, np.int64)

    def add(self, name: str, array: NDArray, kind: str) -> StoredTensor:
        """Write `array` unless a tensor of this name is there already; return where it lies."""
        if name not in self._stored:
            alignment = PAGE if array.nbytes >= PAGE_ALIGNED_FROM else GROUP_BYTES
            self._file.write(bytes(-self._file.tell() % alignment))
            self._stored[name] = StoredTensor(self._file.tell(), array.nbytes)
            self._file.write(np.ascontiguousarray(array).data)
            self.bytes_by_kind[kind] += array.nbytes
        return self._stored[name]

    def close(self) -> None:
        self._file.close()
