"""The sizes of a language model that decide how much work it is."""

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


def read_shapes(bundle: Path) -> Shapes:
    """The sizes that a bundle's manifest states."""
    config = json.loads((bundle / MANIFEST_FILE).read_text(encoding="utf-8"))["config"]
    return Shapes(**{name: config[name] for name in Shapes.__dataclass_fields__})
