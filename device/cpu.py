"""The processor of this machine, as Linux describes it. What Linux does not tell is None."""

import os
import platform
from pathlib import Path

_ROOT = Path("/")
_X86 = ("x86_64", "amd64", "i686", "i386")


def cpu_name(root: Path = _ROOT) -> str | None:
    """The processor's or the board's name: "AMD EPYC", "Raspberry Pi Zero 2 W Rev 1.0"."""
    info = cpuinfo(root)
    return info.get("model name") or info.get("Model") or system_text(root / "proc/device-tree/model")


def physical_cores(root: Path = _ROOT) -> int:
    """Cores, counting those that run two threads once: as many threads the engine uses by itself."""
    pattern = "sys/devices/system/cpu/cpu[0-9]*/topology/thread_siblings_list"
    siblings = {text for path in root.glob(pattern) if (text := system_text(path))}
    return len(siblings) or os.cpu_count() or 1


def last_level_cache_bytes(root: Path = _ROOT) -> int | None:
    """Size of the largest cache of the first core."""
    sizes = [system_text(path) or "" for path in root.glob("sys/devices/system/cpu/cpu0/cache/index*/size")]
    return max((int(size[:-1]) << 10 for size in sizes if size[:-1].isdecimal() and size[-1] == "K"), default=None)


def is_emulated(root: Path = _ROOT, machine: str | None = None) -> bool:
    """Whether this looks like a processor in software, whose times say nothing about a real one.

    True where /proc/cpuinfo is of another architecture than the program (QEMU's user mode), or where the processor or
    the board calls itself QEMU's: a virtual machine that does so is taken for emulated, even if it is not. A faithful
    emulation cannot be told from the real thing.
    """
    info = cpuinfo(root)
    is_x86 = (machine or platform.machine()).lower() in _X86
    foreign = ("CPU implementer" if is_x86 else "vendor_id") in info
    board = system_text(root / "proc/device-tree/model") or ""
    return foreign or "QEMU" in info.get("model name", "") or board == "linux,dummy-virt"


def cpuinfo(root: Path = _ROOT) -> dict[str, str]:
    """The first value of each key in /proc/cpuinfo."""
    info: dict[str, str] = {}
    for line in (system_text(root / "proc/cpuinfo") or "").splitlines():
        key, separator, value = line.partition(":")
        if separator:
            info.setdefault(key.strip(), value.strip())
    return info


def system_text(path: Path) -> str | None:
    """What a file of /proc or /sys says, without its end; None if it says nothing or cannot be read."""
    try:
        return path.read_text(encoding="utf-8", errors="replace").strip("\0\n ") or None
    except OSError:
        return None
