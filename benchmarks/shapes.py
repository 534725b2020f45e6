"""The sizes of a language model that decide how fast it can be."""

import json
from dataclasses import dataclass
from pathlib import Path

from embernet.runtime.bundle import MANIFEST_FILE


@dataclass(frozen=True)
class Shapes:
    """A decoder with a mixture of experts, as a bundle's configuration names its sizes."""

    vocab_size: int
    hidden_size: int
    intermediate_size: int
    num_layers: int
    num_attention_heads: int
    num_kv_heads: int
    num_experts: int
    num_experts_per_tok: int
    use_shared_expert: bool
    max_position_embeddings: int

    @property
    def head_dim(self) -> int:
        return self.hidden_size // self.num_attention_heads

    @property
    def attention_weights(self) -> int:
        """Ternary weights of one layer's four projections."""
        kv = self.num_kv_heads * self.head_dim
        return self.hidden_size * (2 * self.hidden_size + 2 * kv)

    @property
    def expert_weights(self) -> int:
        """Ternary weights of one expert: gate, up and down."""
        return 3 * self.hidden_size * self.intermediate_size

    @property
    def active_ternary_weights(self) -> int:
        """Ternary weights that one token passes through."""
        experts = self.num_experts_per_tok + self.use_shared_expert
        return self.num_layers * (self.attention_weights + experts * self.expert_weights)

    @property
    def head_weights(self) -> int:
        """Weights of the head, 8 bits each."""
        return self.vocab_size * self.hidden_size

    @property
    def bytes_per_token(self) -> int:
        """Bytes of weights that a token needs from a bundle: 2 bits per ternary weight and the int8 head.

        Norms, scales and the router (less than 1 %) and the cache are left out.
        """
        return self.active_ternary_weights // 4 + self.head_weights


def read_shapes(bundle: Path) -> Shapes:
    """The sizes that a bundle's manifest states."""
    config = json.loads((bundle / MANIFEST_FILE).read_text(encoding="utf-8"))["config"]
    return Shapes(**{name: config[name] for name in Shapes.__dataclass_fields__})
