"""From instruction counts to milliseconds of a Raspberry Pi Zero 2 W: an estimate, not a measurement.

    time = max(instructions * CPI / (1 GHz * threads * efficiency), bytes / bandwidth)

No assumption has been calibrated on hardware; each is a range of what is published or reasonable for a Cortex-A53 with
LPDDR2 memory. Throttling by heat and the reading of weights from an SD card are outside of it.
"""

from dataclasses import dataclass

CLOCK_GHZ = 1.0
CORES = 4


@dataclass(frozen=True)
class Assumptions:
    """cpi: cycles per instruction; efficiency: of four threads; gigabytes_per_second: all cores reading memory."""

    cpi: float
    efficiency: float
    gigabytes_per_second: float


FAST = Assumptions(cpi=1.0, efficiency=0.9, gigabytes_per_second=2.4)
CENTRAL = Assumptions(cpi=1.5, efficiency=0.85, gigabytes_per_second=2.0)
SLOW = Assumptions(cpi=2.25, efficiency=0.75, gigabytes_per_second=1.3)


@dataclass(frozen=True)
class Estimate:
    """Milliseconds of both sides; the larger one counts."""

    compute_ms: float
    memory_ms: float

    @property
    def ms(self) -> float:
        return max(self.compute_ms, self.memory_ms)


def estimate(millions: float, megabytes: float, threads: int, assumed: Assumptions) -> Estimate:
    """millions: of instructions in all threads together; megabytes: read from memory."""
    efficiency = assumed.efficiency if threads > 1 else 1.0
    compute = millions * assumed.cpi / (CLOCK_GHZ * threads * efficiency)
    return Estimate(compute, megabytes / assumed.gigabytes_per_second)
