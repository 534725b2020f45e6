"""A new model with random weights, drawn and written tensor by tensor, so that its size does not matter."""

import hashlib
import os
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from embernet.checkpoints import save_checkpoint
from embernet.families import Family


def initial_tensors(family: Family, config: Any, seed: int) -> Iterator[tuple[str, NDArray[np.float32]]]:
    """Names and values of a new model's tensors. A tensor depends on the seed and its own name alone."""
    model = family.part("model")
    for name, shape in model.tensor_shapes(config).items():
        stream = int.from_bytes(hashlib.sha256(name.encode()).digest()[:8], "big")
        yield name, model.initial_value(name, shape, np.random.default_rng([seed, stream]))


def write_initial_checkpoint(
    folder: str | os.PathLike[str],
    family: Family,
    config: Any,
    seed: int,
    progress: Callable[[int], object] = lambda _count: None,
) -> None:
    """Write a checkpoint directory of a new model.

    progress is called with the number of parameters written since the last call.
    """

    def watched() -> Iterator[tuple[str, NDArray[np.float32]]]:
        for name, array in initial_tensors(family, config, seed):
            yield name, array
            progress(array.size)

    save_checkpoint(folder, config, family.part("model").tensor_shapes(config), watched())
