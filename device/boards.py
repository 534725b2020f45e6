"""Boards that embernet is made for: what they have, and what an estimate assumes of them.

Clock, cores and installed memory are the makers'. Everything in `Assumptions`, and how much memory Linux leaves, is
judgement from published figures of the same chips: nothing has been calibrated on a board.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from types import MappingProxyType

from embernet.device.cpu import cpu_name, physical_cores, system_text
from embernet.errors import InputError
from embernet.runtime.available_memory import available_bytes, meminfo

HOST = "host"
# What takes a picture on Raspberry Pi OS: its name now, and before 2023.
STILL_PROGRAMS = ("rpicam-still", "libcamera-still")
_ROOT = Path("/")
_MB = 2**20


@dataclass(frozen=True)
class Assumptions:
    """cpi: cycles per instruction; efficiency: of all cores; gigabytes_per_second: all cores reading memory."""

    cpi: float
    efficiency: float
    gigabytes_per_second: float


@dataclass(frozen=True)
class Speed:
    """How fast a board computes. isa: the kernels that run there; the three assumptions span what is likely."""

    clock_ghz: float
    isa: str
    fast: Assumptions
    central: Assumptions
    slow: Assumptions


@dataclass(frozen=True)
class Board:
    """A board, or the machine this runs on.

    available_bytes: what Linux leaves to programs before ours starts; None = not known. speed: None = not known.
    note: what to know about these figures.
    """

    name: str
    title: str
    cpu: str
    cores: int
    memory_bytes: int | None
    available_bytes: int | None
    speed: Speed | None
    note: str


_IN_ORDER = {  # Cortex-A53, with LPDDR2 of 32 bits
    "fast": Assumptions(cpi=1.0, efficiency=0.9, gigabytes_per_second=2.4),
    "central": Assumptions(cpi=1.5, efficiency=0.85, gigabytes_per_second=2.0),
    "slow": Assumptions(cpi=2.25, efficiency=0.75, gigabytes_per_second=1.3),
}
CORES = 4  # of every one of them
PI_ZERO_2_W = Speed(1.0, "neon", **_IN_ORDER)
_UNCALIBRATED = "speed and free memory are judgement, not measured on this board"

_BOARDS = (
    Board(
        name="pi-zero-2-w",
        title="Raspberry Pi Zero 2 W",
        cpu="Cortex-A53",
        cores=CORES,
        memory_bytes=512 * _MB,
        # Of 512 MB the GPU takes 64 and the kernel 37; systemd and what Raspberry Pi OS Lite starts the rest.
        available_bytes=300 * _MB,
        speed=PI_ZERO_2_W,
        note=_UNCALIBRATED,
    ),
    Board(
        name="pi-3",
        title="Raspberry Pi 3 Model B",
        cpu="Cortex-A53",
        cores=CORES,
        memory_bytes=1024 * _MB,
        available_bytes=700 * _MB,
        speed=Speed(1.2, "neon", **_IN_ORDER),
        note=f"{_UNCALIBRATED}; the B+ has 1.4 GHz, the A+ 512 MB",
    ),
    Board(
        name="pi-4",
        title="Raspberry Pi 4 Model B",
        cpu="Cortex-A72",
        cores=CORES,
        memory_bytes=2048 * _MB,
        available_bytes=1600 * _MB,
        speed=Speed(
            1.5,
            "neon",
            fast=Assumptions(cpi=0.5, efficiency=0.9, gigabytes_per_second=5.0),
            central=Assumptions(cpi=0.75, efficiency=0.85, gigabytes_per_second=3.5),
            slow=Assumptions(cpi=1.2, efficiency=0.7, gigabytes_per_second=2.5),
        ),
        note=f"{_UNCALIBRATED}, and instructions are counted on a Cortex-A53; of 2 GB, others have 1 to 8",
    ),
    Board(
        name="pi-5",
        title="Raspberry Pi 5",
        cpu="Cortex-A76",
        cores=CORES,
        memory_bytes=2048 * _MB,
        available_bytes=1600 * _MB,
        speed=Speed(
            2.4,
            "neon_dot",
            fast=Assumptions(cpi=0.35, efficiency=0.9, gigabytes_per_second=12.0),
            central=Assumptions(cpi=0.5, efficiency=0.85, gigabytes_per_second=9.0),
            slow=Assumptions(cpi=0.9, efficiency=0.7, gigabytes_per_second=6.0),
        ),
        note=f"{_UNCALIBRATED}; of 2 GB, others have up to 16",
    ),
)
BOARDS: Mapping[str, Board] = MappingProxyType({board.name: board for board in _BOARDS})
# How /proc/device-tree/model begins, behind "Raspberry Pi ".
_MODELS = (
    ("pi-zero-2-w", r"Zero 2"),
    ("pi-3", r"3|Compute Module 3"),
    ("pi-4", r"4|Compute Module 4"),
    ("pi-5", r"5|Compute Module 5"),
)


def find_board(name: str, root: Path = _ROOT) -> Board:
    """The profile of this name; "host" is the machine this runs on. InputError if there is no such board."""
    if name == HOST:
        return host_board(root)
    if name not in BOARDS:
        raise InputError(f"{name}: no such board (known: {', '.join([*BOARDS, HOST])})")
    return BOARDS[name]


def host_board(root: Path = _ROOT) -> Board:
    """This machine: its memory is what Linux leaves this process now. Its speed is known only if it is of `BOARDS`."""
    known = detect_board(root)
    installed, available = meminfo(root).get("MemTotal"), available_bytes(root)
    if known is not None:
        return replace(known, memory_bytes=installed, available_bytes=available)
    return Board(
        name=HOST,
        title=system_text(root / "proc/device-tree/model") or "this machine",
        cpu=cpu_name(root) or "not known",
        cores=physical_cores(root),
        memory_bytes=installed,
        available_bytes=available,
        speed=None,
        note="speed is not estimated here: embernet bench measures it",
    )


def detect_board(root: Path = _ROOT) -> Board | None:
    """The profile that fits this machine's own description; None if none does."""
    model = system_text(root / "proc/device-tree/model") or ""
    for name, pattern in _MODELS:
        if re.match(f"Raspberry Pi ({pattern})", model):
            return BOARDS[name]
    return None
