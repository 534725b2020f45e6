"""Choosing the next token from its logits."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from embernet.errors import InputError


@dataclass(frozen=True)
class Sampling:
    """temperature 0 takes the most likely token; otherwise logits are divided by it.

    top_k: only the k most likely tokens, 0 = all. top_p: only the most likely tokens whose probabilities first reach
    top_p. seed: None = different at every call.
    """

    temperature: float = 0.0
    top_k: int = 0
    top_p: float = 1.0
    seed: int | None = None

    def __post_init__(self) -> None:
        if not 0 <= self.temperature < float("inf"):
            raise InputError(f"temperature must be 0 or more (found {self.temperature})")
        if self.top_k < 0:
            raise InputError(f"top_k must be 0 or more (found {self.top_k})")
        if not 0 < self.top_p <= 1:
            raise InputError(f"top_p must be above 0 and at most 1 (found {self.top_p})")
        if self.seed is not None and self.seed < 0:
            raise InputError(f"seed must be 0 or more (found {self.seed})")


class Sampler:
    """Draws tokens of one answer; the same seed gives the same answer."""

    def __init__(self, sampling: Sampling) -> None:
        self._sampling = sampling
        self._rng = np.random.default_rng(sampling.seed)

    def __call__(self, logits: NDArray[np.float32]) -> int:
        """logits (V,) -> token id."""
        if self._sampling.temperature == 0:
            return int(logits.argmax())
        probabilities = token_probabilities(logits, self._sampling)
        return int(self._rng.choice(len(probabilities), p=probabilities))


def token_probabilities(logits: NDArray[np.float32], sampling: Sampling) -> NDArray[np.float64]:
    """logits (V,) -> probabilities (V,) after temperature, top-k and top-p, in this order."""
    scaled = logits.astype(np.float64) / sampling.temperature
    if 0 < sampling.top_k < len(scaled):
        kth = np.partition(scaled, -sampling.top_k)[-sampling.top_k]
        scaled[scaled < kth] = -np.inf
    if sampling.top_p < 1:
        order = np.argsort(-scaled, kind="stable")
        cumulative = np.cumsum(_softmax(scaled[order]))
        # A token stays while the ones before it have not reached top_p; the first always stays.
        scaled[order[1:][cumulative[:-1] > sampling.top_p]] = -np.inf
    return _softmax(scaled)


def _softmax(values: NDArray[np.float64]) -> NDArray[np.float64]:
    exponentials = np.exp(values - values.max())
    return exponentials / exponentials.sum()
