"""What the runtime gives back: an image that was encoded, an answer, and where its time and its tokens went."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class EncodedImage:
    """An image as the decoder sees it; every verb takes it in place of an image.

    features (1, I, H), read-only. width and height are those of the upright original; sha256 is of the encoded file,
    if there was one. vision_ms is 0 if the features came from the cache.
    """

    features: NDArray[np.float32]
    name: str
    width: int
    height: int
    sha256: str | None
    preprocess_ms: float
    vision_ms: float


@dataclass(frozen=True)
class Usage:
    """Positions of the sequence that this answer added: image, prompt, and generated tokens, the end token too."""

    image_tokens: int
    prompt_tokens: int
    completion_tokens: int


@dataclass(frozen=True)
class Routing:
    """Which experts the generated tokens were computed by.

    counts[layer][expert]: how often the expert was chosen, once per generated token for each of the top-k.
    choices[token][layer]: numbers of the experts that were chosen for one token.
    """

    experts: tuple[str, ...]
    counts: tuple[tuple[int, ...], ...]
    choices: tuple[tuple[tuple[int, ...], ...], ...] = ()

    @classmethod
    def count(cls, experts: tuple[str, ...], choices: Sequence[NDArray[np.int64]]) -> "Routing":
        """choices: one (L, K) array per generated token."""
        if not choices:
            return cls(experts, ())
        counts = [np.bincount(layer.ravel(), minlength=len(experts)) for layer in np.stack(choices, axis=1)]
        by_token = tuple(tuple(tuple(layer) for layer in token.tolist()) for token in choices)
        return cls(experts, tuple(tuple(int(c) for c in layer) for layer in counts), by_token)

    def share(self) -> dict[str, float]:
        """Share of each expert in all choices, by name; sums to 1, or to 0 if nothing was generated."""
        totals = np.sum(self.counts, axis=0) if self.counts else np.zeros(len(self.experts))
        shares = totals / max(totals.sum(), 1)
        return dict(zip(self.experts, shares.tolist(), strict=True))

    def to_dict(self) -> dict[str, Any]:
        return {"experts": list(self.experts), "counts": [list(c) for c in self.counts], "share": self.share()}


@dataclass
class Timings:
    """Milliseconds of one answer. The four stages are all there is: total_ms is their sum.

    preprocess_ms and vision_ms are 0 if the image was encoded before: then the EncodedImage knows them.
    """

    preprocess_ms: float = 0.0
    vision_ms: float = 0.0
    prefill_ms: float = 0.0
    decode_ms: float = 0.0

    @property
    def total_ms(self) -> float:
        return self.preprocess_ms + self.vision_ms + self.prefill_ms + self.decode_ms


@dataclass(frozen=True)
class Answer:
    """finish_reason: "stop" (the model ended it), "length" (the limit did) or "interrupted"."""

    text: str
    finish_reason: str
    usage: Usage
    routing: Routing
    timings: Timings
    token_ids: tuple[int, ...]
    warnings: tuple[str, ...] = field(default=())

    @property
    def tokens_per_second(self) -> float | None:
        """Decode speed: tokens after the first one (which the prefill gives) per second; None for a single token."""
        steps = self.usage.completion_tokens - 1
        return 1e3 * steps / self.timings.decode_ms if steps > 0 and self.timings.decode_ms > 0 else None

    def to_dict(self) -> dict[str, Any]:
        """The fields as JSON-ready values; units are in the names."""
        t = self.timings
        return {
            "text": self.text,
            "finish_reason": self.finish_reason,
            "usage": vars(self.usage),
            "timings": vars(t) | {"total_ms": t.total_ms, "tokens_per_second": self.tokens_per_second},
            "routing": self.routing.to_dict(),
            "warnings": list(self.warnings),
        }
