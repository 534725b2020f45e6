"""How the board is: heat, throttling, clock and swap. What this machine does not tell is None."""

import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

from embernet.device.cpu import system_text
from embernet.runtime.available_memory import meminfo

_ROOT = Path("/")
_TIMEOUT_S = 2.0
# The bits of `vcgencmd get_throttled`; 16 higher are the same, since the board was started.
THROTTLE_BITS = {0: "under-voltage", 1: "frequency capped", 2: "throttled", 3: "soft temperature limit"}
_SINCE_START = 16


@dataclass(frozen=True)
class Throttling:
    """What slows a Raspberry Pi down, from THROTTLE_BITS: now, and since it was started."""

    now: tuple[str, ...]
    occurred: tuple[str, ...]


@dataclass(frozen=True)
class Health:
    """One look at the board. swap_bytes: of all swap areas together; zram_bytes: of those in compressed memory."""

    temperature_c: float | None
    throttling: Throttling | None
    frequency_mhz: float | None
    governor: str | None
    swap_bytes: int | None
    swap_used_bytes: int | None
    zram_bytes: int


def read_health(root: Path = _ROOT) -> Health:
    """Look at the board now. root: where /proc and /sys are; `vcgencmd` is asked if it is there."""
    memory = meminfo(root)
    swap, free = memory.get("SwapTotal"), memory.get("SwapFree")
    return Health(
        temperature_c=temperature_c(root),
        throttling=throttling(),
        frequency_mhz=frequency_mhz(root),
        governor=system_text(root / "sys/devices/system/cpu/cpu0/cpufreq/scaling_governor"),
        swap_bytes=swap,
        swap_used_bytes=None if swap is None or free is None else swap - free,
        zram_bytes=_zram_bytes(root),
    )


def temperature_c(root: Path = _ROOT) -> float | None:
    """Degrees Celsius of the first thermal zone."""
    return _scaled(root / "sys/class/thermal/thermal_zone0/temp", 1e-3)


def frequency_mhz(root: Path = _ROOT) -> float | None:
    """The clock of the first core, as the kernel set it."""
    return _scaled(root / "sys/devices/system/cpu/cpu0/cpufreq/scaling_cur_freq", 1e-3)


def throttling() -> Throttling | None:
    """What `vcgencmd get_throttled` says, where there is such a program and it may be used."""
    program = shutil.which("vcgencmd")
    if program is None:
        return None
    try:
        answer = subprocess.run(  # noqa: S603
            [program, "get_throttled"], capture_output=True, text=True, timeout=_TIMEOUT_S, check=True
        ).stdout
        bits = int(answer.strip().removeprefix("throttled="), 16)
    except (OSError, ValueError, subprocess.SubprocessError):
        return None
    now, occurred = (
        tuple(name for bit, name in THROTTLE_BITS.items() if bits >> (bit + since) & 1) for since in (0, _SINCE_START)
    )
    return Throttling(now, occurred)


def _zram_bytes(root: Path) -> int:
    """Size of the swap areas that lie in compressed memory."""
    lines = (system_text(root / "proc/swaps") or "").splitlines()[1:]
    areas = [line.split() for line in lines]
    return sum(int(area[2]) << 10 for area in areas if len(area) > 2 and area[0].startswith("/dev/zram"))


def _scaled(path: Path, factor: float) -> float | None:
    """A whole number in a file of /sys, times `factor`."""
    text = system_text(path)
    try:
        return None if text is None else int(text) * factor
    except ValueError:
        return None
