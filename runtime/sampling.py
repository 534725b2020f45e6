"""Choosing the next token from its logits."""

from dataclasses import dataclass
from typing import Any

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
        if not _is_number(self.temperature) or not 0 <= self.temperature < float("inf"):
            raise InputError(f"temperature must be a finite number, 0 or more (found {self.temperature!r})")
        require_whole("top_k", self.top_k, low=0)
        if not _is_number(self.top_p) or not 0 < self.top_p <= 1:
            raise InputError(f"top_p must be above 0 and at most 1 (found {self.top_p!r})")
        if self.seed is not None:
            require_whole("seed", self.seed, low=0)


def require_whole(name: str, value: Any, low: int, high: int | None = None) -> None:
    """InputError unless a value is a whole number from low to high; high None = any."""
    whole = not isinstance(value, bool) and isinstance(value, int | np.integer)
    if not (whole and low <= value and (high is None or value <= high)):
        bounds = f"{low} or more" if high is None else f"from {low} to {high}"
        raise InputError(f"{name} must be {bounds}, a whole number (found {value!r:.80})")


def _is_number(value: object) -> bool:
    return isinstance(value, int | float | np.number) and not isinstance(value, bool)


class Sampler:
    """Draws tokens of one answer; the same seed gives the same answer."""

    def __init__(self, sampling: Sampling) -> None:
        self._sampling = sampling
        # numpy.random takes over 2 MB, which the most likely token does not need.
        self._rng = np.random.default_rng(sampling.seed) if sampling.temperature else None

    def __call__(self, logits: NDArray[np.float32]) -> int:
        """logits (V,) -> token id."""
        if self._rng is None:
            return int(logits.argmax())
        probabilities = token_probabilities(logits, self._sampling)
        return int(self._rng.choice(len(probabilities), p=probabilities))


def token_probabilities(logits: NDArray[np.float32], sampling: Sampling) -> NDArray[np.float64]:
    """logits (V,) -> probabilities (V,) after temperature, top-k and top-p, in this order."""
    with np.errstate(over="ignore"):  # a tiny temperature takes all but the best token to -infinity
        scaled = (logits.astype(np.float64) - logits.max()) / sampling.temperature
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
