"""What a model's manifest says before a weight is read: the work of each stage, and the memory it takes."""

from dataclasses import astuple, dataclass
from typing import Protocol

FLOAT_BYTES = 4
# A longer prompt is read in pieces of so many positions, but an image whole: the memory to read one is bounded.
PREFILL_PIECE = 256


@dataclass(frozen=True)
class Work:
    """What a stage does, all threads together.

    Products of a weight and an activation: int8, ternary (of many rows at once), single (of either kind, one row at a
    time); floats: float32 products. inputs: values normalised or quantised for them; outputs: their results; values:
    others computed one by one. operators: of a graph, run once each. weight_bytes: read at least once.
    """

    int8: int = 0
    ternary: int = 0
    single: int = 0
    floats: int = 0
    inputs: int = 0
    outputs: int = 0
    values: int = 0
    operators: int = 0
    weight_bytes: int = 0

    def __add__(self, other: "Work") -> "Work":
        return Work(*(a + b for a, b in zip(astuple(self), astuple(other), strict=True)))

    def times(self, count: int) -> "Work":
        return Work(*(count * value for value in astuple(self)))


@dataclass(frozen=True)
class MemoryNeed:
    """Bytes beyond Python and the engine's code.

    Mapped from the file, so that the system may drop and read them again: vision_weights while an image is encoded;
    decoder_weights with every expert, of which the table of embeddings and the head have table_weights.
    Anonymous: sessions once loaded; image while one is encoded; position for each that is read at once, of a prompt
    at most `piece`; cache_position for each of a sequence, until it ends.
    """

    vision_weights: int
    decoder_weights: int
    table_weights: int
    sessions: int
    image: int
    position: int
    cache_position: int
    piece: int = PREFILL_PIECE

    def anonymous(self, context: int, prompt: int) -> int:
        """The most at once, with a sequence of `context` positions of which a prompt has `prompt`."""
        return self.sessions + max(self.image, self.sequence(context, prompt))

    def sequence(self, context: int, prompt: int) -> int:
        """What a sequence of `context` positions takes while a prompt of `prompt` is read."""
        return self.cache_position * context + self.prefill(prompt)

    def positions_within(self, available: int, prompt: int) -> int:
        """The longest sequence that takes no more than this while a prompt of `prompt` positions is read."""
        return max(0, available - self.prefill(prompt)) // max(1, self.cache_position)

    def prefill(self, prompt: int) -> int:
        """What reading a prompt takes besides its keys and values."""
        return self.position * min(prompt, self.piece)


class Shape(Protocol):
    """One model's sizes."""

    @property
    def num_image_tokens(self) -> int: ...

    @property
    def decode_weight_bytes(self) -> int:
        """Bytes of weights that a token of an answer needs: of the experts, only those that work on it."""
        ...

    def image_work(self) -> Work:
        """Of one image."""
        ...

    def prefill_work(self, positions: int) -> Work:
        """Of the first `positions` of a sequence, with the logits of the last; every expert is taken to be needed."""
        ...

    def token_work(self, past: int) -> Work:
        """Of one token after `past` positions."""
        ...

    def memory(self) -> MemoryNeed: ...
