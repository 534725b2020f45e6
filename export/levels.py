"""Which ternary levels a checkpoint's weights fall on."""

from collections.abc import Callable

import numpy as np

from embernet.checkpoints import Checkpoint
from embernet.parameters import is_ternary
from embernet.runtime.bundle import LEVEL_NAMES
from embernet.runtime.reference import count_levels, quantize_weights


def checkpoint_levels(
    checkpoint: Checkpoint, progress: Callable[[int], object] = lambda _count: None
) -> dict[str, int]:
    """How many of the ternary weights are -1, 0 and +1.

    progress is called with the number of weights read since the last call.
    """
    levels = np.zeros(len(LEVEL_NAMES), np.int64)
    for name in checkpoint.tensors:
        if is_ternary(name, checkpoint.tensors):
            codes, _ = quantize_weights(checkpoint.tensors[name], checkpoint.config.weight_quantizer)
            levels += count_levels(codes)
            progress(codes.size)
    return dict(zip(LEVEL_NAMES, levels.tolist(), strict=True))
