"""Learning rates as a function of the step alone, so that nothing needs to be remembered."""

import math

PHASE_2_FACTOR = 0.1


def learning_rate_factor(schedule: str, step: int, total: int, warmup: int, phase1: int) -> float:
    """What the learning rate is multiplied with at `step`, counted from 1, of `total` steps.

    two_phase: linear warm-up, 1 before step `phase1`, a tenth from there on. cosine: warm-up, half a cosine to 0.
    """
    if step < warmup:
        return step / warmup
    if schedule == "cosine":
        return 0.5 * (1 + math.cos(math.pi * (step - warmup) / max(1, total - warmup)))
    return 1.0 if step < phase1 else PHASE_2_FACTOR
