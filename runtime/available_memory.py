"""How much memory this process may still take, as Linux counts it."""

from collections.abc import Iterator
from pathlib import Path, PurePosixPath

_ROOT = Path("/")
_KB = 1024
_NO_LIMIT = 2**62  # version 1 has a number for it
# Of control groups, version 2 and 1: folder, limit, use, and what of the use is pages of files, which can be dropped.
_VERSION_2 = ("sys/fs/cgroup", "memory.max", "memory.current", ("inactive_file", "active_file"))
_VERSION_1 = (
    "sys/fs/cgroup/memory",
    "memory.limit_in_bytes",
    "memory.usage_in_bytes",
    ("total_inactive_file", "total_active_file"),
)


def available_bytes(root: Path = _ROOT) -> int | None:
    """Memory that this process can still take without swapping; None where /proc does not tell.

    That of the machine, or of the control group with the least left.
    """
    available = meminfo(root).get("MemAvailable")
    return None if available is None else max(0, min([available, *_left_in_groups(root)]))


def meminfo(root: Path = _ROOT) -> dict[str, int]:
    """Bytes by name: "MemTotal", "MemAvailable", "SwapTotal"; empty where /proc does not tell."""
    return kilobyte_fields(root / "proc/meminfo")


def kilobyte_fields(path: Path) -> dict[str, int]:
    """Lines like `VmRSS:  1234 kB` of a file as bytes by name; empty if it cannot be read."""
    parts = (line.split() for line in _text(path).splitlines())
    return {p[0].rstrip(":"): int(p[1]) * _KB for p in parts if len(p) == 3 and p[2] == "kB" and p[1].isdecimal()}


def _left_in_groups(root: Path) -> Iterator[int]:
    """What the limit of each control group around this process leaves."""
    for line in _text(root / "proc/self/cgroup").splitlines():
        _, _, rest = line.partition(":")
        controllers, _, path = rest.partition(":")
        if controllers and "memory" not in controllers.split(","):
            continue
        folder, limit_file, use_file, droppable = _VERSION_1 if controllers else _VERSION_2
        group = PurePosixPath(path.lstrip("/"))
        for place in (group, *group.parents):
            limit, use = (_number(root / folder / place / name) for name in (limit_file, use_file))
            if limit is not None and use is not None and limit < _NO_LIMIT:
                fields = (line.split() for line in _text(root / folder / place / "memory.stat").splitlines())
                yield limit - use + sum(int(f[1]) for f in fields if len(f) == 2 and f[0] in droppable)


def _number(path: Path) -> int | None:
    """A whole number; None for "max" (no limit) or where there is no such file."""
    text = _text(path).strip()
    return int(text) if text.isdecimal() else None


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""
