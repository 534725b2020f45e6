"""The native operators: a shared library that ONNX Runtime loads, and the instruction set it uses.

Without it (no compiler at installation, or EMBERNET_ISA=none) ONNX Runtime runs the function bodies in the graphs:
right, but slow.
"""

import ctypes
import functools
import os
from collections.abc import Callable
from pathlib import Path

from embernet.errors import InputError

FILE_NAME = "libembernet_ops.so"
FUNCTION_BODIES = "none"


@functools.cache
def find_library() -> Path | None:
    """Where the library is: beside this file, or, for an editable install, in site-packages."""
    beside = Path(__file__).parent / FILE_NAME
    if beside.is_file():
        return beside.resolve()
    import importlib.metadata  # over 2 MB, which an installed wheel does not need

    try:
        installed = importlib.metadata.distribution("embernet").locate_file(f"embernet/runtime/{FILE_NAME}")
    except importlib.metadata.PackageNotFoundError:
        return None
    place = Path(str(installed))
    return place.resolve() if place.is_file() else None


def supported_isas() -> list[str]:
    """Names of the instruction sets that the library has kernels for and this CPU runs, fastest first."""
    path = find_library()
    if path is None:
        return []
    names = ctypes.CDLL(str(path)).embernet_supported_isas
    names.restype = ctypes.c_char_p
    return str(names().decode()).split()


def memory_reader() -> Callable[[int, int], int] | None:
    """The library's function that reads memory (address, bytes) and does nothing else; None without the library."""
    path = find_library()
    read = None if path is None else getattr(ctypes.CDLL(str(path)), "embernet_read_memory", None)
    if read is None:
        return None
    read.argtypes = [ctypes.c_void_p, ctypes.c_size_t]
    read.restype = ctypes.c_uint64
    return read


def isa_in_use() -> str:
    """The instruction set of the kernels that sessions use, or FUNCTION_BODIES."""
    choices = [*supported_isas(), FUNCTION_BODIES]
    wanted = os.environ.get("EMBERNET_ISA") or choices[0]
    if wanted not in choices:
        raise InputError(f"EMBERNET_ISA: no such kernels here (found {wanted!r:.40}, expected {' or '.join(choices)})")
    return wanted


def library_in_use() -> Path | None:
    """The library that sessions register, or None if they run the function bodies."""
    return None if isa_in_use() == FUNCTION_BODIES else find_library()
