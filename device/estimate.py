"""From instruction counts to milliseconds of a board: an estimate, not a measurement.

    time = max(instructions * CPI / (clock * threads * efficiency), bytes / bandwidth)

What is assumed of a board is in `boards`. Throttling by heat, and the reading of weights from an SD
card, are outside of it.
"""

from dataclasses import dataclass

from embernet.device.boards import Assumptions, Speed


@dataclass(frozen=True)
class Estimate:
    """Milliseconds of both sides; the larger one counts."""

    compute_ms: float
    memory_ms: float

    @property
    def ms(self) -> float:
        return max(self.compute_ms, self.memory_ms)


def estimate(millions: float, megabytes: float, threads: int, clock_ghz: float, assumed: Assumptions) -> Estimate:
    """millions: of instructions in all threads together; megabytes: read from memory."""
    efficiency = assumed.efficiency if threads > 1 else 1.0
    compute = millions * assumed.cpi / (clock_ghz * threads * efficiency)
    return Estimate(compute, megabytes / assumed.gigabytes_per_second)


@dataclass(frozen=True)
class Range:
    """What the three assumptions of a board give."""

    fast: Estimate
    central: Estimate
    slow: Estimate


def estimate_range(millions: float, megabytes: float, threads: int, speed: Speed) -> Range:
    """The same with each assumption of a board."""
    return Range(
        *(
            estimate(millions, megabytes, threads, speed.clock_ghz, assumed)
            for assumed in (speed.fast, speed.central, speed.slow)
        )
    )
