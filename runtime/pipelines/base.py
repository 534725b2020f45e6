"""What a family's pipeline offers to the rest of the runtime. It knows arrays and token ids, never text or files."""

from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from embernet.runtime.pipelines.shape import Shape


@dataclass(frozen=True)
class Step:
    """What one run over T new positions gave.

    logits (1, V) of the last position, or (T, V), which the context may overwrite in its next run; experts and weights
    (L, T, K): router choices of every position.
    """

    logits: NDArray[np.float32]
    experts: NDArray[np.int64]
    weights: NDArray[np.float32]


class Context(Protocol):
    """One sequence that grows: its cached keys and values, up to a fixed capacity of positions."""

    @property
    def length(self) -> int: ...

    @property
    def capacity(self) -> int: ...

    def feed(
        self, input_ids: list[int], image_features: NDArray[np.float32] | None = None, all_logits: bool = False
    ) -> Step:
        """Append image positions, then text positions, and run them; only the last one's logits, unless all."""
        ...


class Pipeline(Protocol):
    """One loaded model of a family."""

    @property
    def shape(self) -> Shape:
        """What was known of it before it was loaded."""
        ...

    @property
    def features_shape(self) -> tuple[int, int]:
        """(I, H) of one image's features."""
        ...

    def encode(self, pixel_values: NDArray[np.float32]) -> NDArray[np.float32]:
        """pixel_values (N, 3, S, S) -> image_features (N, I, H)."""
        ...

    def new_context(self, capacity: int) -> Context:
        """An empty sequence of at most `capacity` positions."""
        ...
