"""Watching the board during a measurement: heat, clock, throttling and swap, and whether they spoilt it.

docs/benchmarking.md says when a run counts as spoilt.
"""

import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Literal

from embernet.device.health import (
    THROTTLE_BITS,
    Health,
    Throttling,
    frequency_mhz,
    read_health,
    temperature_c,
    throttling,
)
from embernet.device.memory import swapped_out_bytes

# Some pages of programs that sleep always go; they slow nothing down.
SWAPPED_OUT_LIMIT = 1 << 20


class Watch:
    """Begins with a look at the board. root: where /proc and /sys are."""

    def __init__(self, root: Path = Path("/")) -> None:
        self._root = root
        self._began = time.perf_counter()
        self._times: list[float] = []
        self._temperatures: list[float | None] = []
        self._clocks: list[float | None] = []
        self._healths: list[Health] = []
        self._swapped_out: list[int | None] = []
        self._throttlings: list[Throttling] = []
        self._knows_throttling = False  # at the last look
        self.look()

    def now_s(self) -> float:
        """Seconds since the watch began."""
        return time.perf_counter() - self._began

    def glance(self) -> None:
        """Temperature and clock: two small files."""
        self._times.append(self.now_s())
        self._temperatures.append(temperature_c(self._root))
        self._clocks.append(frequency_mhz(self._root))

    def look(self) -> None:
        """Everything; starts a program, so never while something is timed."""
        self.glance()
        self._healths.append(read_health(self._root))
        self._swapped_out.append(swapped_out_bytes(self._root))
        self._add_throttling(self._healths[-1].throttling)

    def look_at_throttling(self) -> None:
        """Throttling alone: after something whose need of swap does not count."""
        self._add_throttling(throttling())

    @property
    def invalid_reasons(self) -> list[str]:
        """Why what was measured does not count, one sentence each."""
        reasons = []
        first = self._throttlings[:1]
        slowed = self._names("now") | (self._names("occurred") - {name for seen in first for name in seen.occurred})
        if slowed:
            reasons.append(f"the board slowed itself down: {', '.join(_in_order(slowed))}")
        swapped = self._swapped_out_bytes
        if swapped is not None and swapped > SWAPPED_OUT_LIMIT:
            reasons.append(f"memory was short: {swapped / 1e6:.3g} MB went out to swap")
        return reasons

    def to_dict(self) -> dict[str, Any]:
        """What was seen, as JSON values; what this machine does not tell is null."""
        first, last = self._healths[0], self._healths[-1]
        # The last look remembers what happened since the others: without it nothing is known.
        throttled = self._throttlings if self._knows_throttling else []
        return {
            "valid": not self.invalid_reasons,
            "invalid_reasons": self.invalid_reasons,
            "temperature_c": {
                "start": self._temperatures[0],
                "end": self._temperatures[-1],
                "max": max(_known(self._temperatures), default=None),
            },
            "frequency_mhz": {
                "start": self._clocks[0],
                "end": self._clocks[-1],
                "min": min(_known(self._clocks), default=None),
            },
            "governor": first.governor,
            "throttled": {
                "now": _in_order(self._names("now")) if throttled else None,
                "occurred": list(throttled[-1].occurred) if throttled else None,
                "occurred_before": list(throttled[0].occurred) if throttled else None,
            },
            "swap_bytes": first.swap_bytes,
            "zram_bytes": first.zram_bytes,
            "swap_used_bytes": {"start": first.swap_used_bytes, "end": last.swap_used_bytes},
            "swapped_out_bytes": self._swapped_out_bytes,
        }

    def course(self) -> dict[str, Any]:
        """Of every look: seconds since the watch began, temperature and clock."""
        return {"at_s": self._times, "temperature_c": self._temperatures, "frequency_mhz": self._clocks}

    def _add_throttling(self, seen: Throttling | None) -> None:
        self._knows_throttling = seen is not None
        if seen is not None:
            self._throttlings.append(seen)

    def _names(self, when: Literal["now", "occurred"]) -> set[str]:
        """What was seen at any look."""
        return {name for seen in self._throttlings for name in getattr(seen, when)}

    @property
    def _swapped_out_bytes(self) -> int | None:
        before, after = self._swapped_out[0], self._swapped_out[-1]
        return None if before is None or after is None else after - before


def _in_order(names: set[str]) -> list[str]:
    return [name for name in THROTTLE_BITS.values() if name in names]


def _known(values: Iterable[float | None]) -> list[float]:
    return [value for value in values if value is not None]
