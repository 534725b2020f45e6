"""The ternary mixture-of-experts decoder.

Shapes: B batch, T positions, H hidden_size, D head_dim, E experts, K experts per token, L layers, V vocab_size.
"""

from dataclasses import dataclass, field

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from embernet.layers.bitlinear import BitLinear, RMSNorm
from embernet.models.embernet.config import EmberNetConfig
from embernet.runtime.reference import ExpertClips

CLIPS = ExpertClips()


@dataclass
class KVCache:
    """Keys (after RoPE) and values of every layer, each (B, num_kv_heads, T, D)."""

    layers: list[tuple[Tensor, Tensor]] = field(default_factory=list)

    @property
    def length(self) -> int:
        return self.layers[0][0].shape[2] if self.layers else 0

    def append(self, layer: int, key: Tensor, value: Tensor) -> tuple[Tensor, Tensor]:
        """Add new positions to one layer and return all of its keys and values."""
        if layer == len(self.layers):
            self.layers.append((key, value))
        else:
            past_key, past_value = self.layers[layer]
            self.layers[layer] = (torch.cat([past_key, key], dim=2), torch.cat([past_value, value], dim=2))
        return self.layers[layer]


@dataclass
class Routing:
    """What the routers of one forward pass chose. logits (L, B, T, E); experts and weights (L, B, T, K)."""

    logits: Tensor
    experts: Tensor
    weights: Tensor


def rope_tables(head_dim: int, positions: Tensor, base: float) -> tuple[Tensor, Tensor]:
    """positions (T,) -> cos, sin (T, D), the frequencies repeated for both halves."""
    frequencies = base ** (-torch.arange(0, head_dim, 2, device=positions.device).float() / head_dim)
    angles = positions.float()[:, None] * frequencies
    angles = torch.cat([angles, angles], dim=-1)
    return angles.cos(), angles.sin()


def apply_rope(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Rotate x (B, heads, T, D) by half-split (NeoX) rotary embedding."""
    first, second = x.chunk(2, dim=-1)
    return x * cos + torch.cat([-second, first], dim=-1) * sin


class Attention(nn.Module):
    """Grouped-query attention; query head j reads kv head j // (num_attention_heads / num_kv_heads)."""

    def __init__(self, config: EmberNetConfig, layer: int) -> None:
        super().__init__()
        self.layer = layer
        self.head_dim = config.head_dim
        H, kv = config.hidden_size, config.num_kv_heads * config.head_dim
        quantizer, eps = config.quantizer, config.bitlinear_norm_eps
        self.q_proj = BitLinear(H, H, quantizer, norm_eps=eps)
        self.k_proj = BitLinear(H, kv, quantizer, norm_eps=eps)
        self.v_proj = BitLinear(H, kv, quantizer, norm_eps=eps)
        self.o_proj = BitLinear(H, H, quantizer, norm_eps=eps)

    def forward(self, x: Tensor, cos: Tensor, sin: Tensor, mask: Tensor, cache: KVCache | None) -> Tensor:
        B, T, H = x.shape
        q, k, v = (
            projection(x).view(B, T, -1, self.head_dim).transpose(1, 2)
            for projection in (self.q_proj, self.k_proj, self.v_proj)
        )
        q, k = apply_rope(q, cos, sin), apply_rope(k, cos, sin)
        if cache is not None:
            k, v = cache.append(self.layer, k, v)
        y = F.scaled_dot_product_attention(q, k, v, attn_mask=mask, enable_gqa=True)
        return self.o_proj(y.transpose(1, 2).reshape(B, T, H))


class Expert(nn.Module):
    """SwiGLU of three BitLinears with the published clips: (tokens, H) -> (tokens, H)."""

    def __init__(self, config: EmberNetConfig) -> None:
        super().__init__()
        H, hidden, quantizer = config.hidden_size, config.intermediate_size, config.quantizer
        eps = config.bitlinear_norm_eps
        self.gate_proj = BitLinear(H, hidden, quantizer, norm_eps=eps)
        self.up_proj = BitLinear(H, hidden, quantizer, norm_eps=eps)
        self.down_proj = BitLinear(hidden, H, quantizer, norm_eps=eps)
        self.norm = RMSNorm(hidden, eps) if config.expert_norm else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        gate = self.gate_proj(x).clamp(-CLIPS.gate, CLIPS.gate)
        hidden = (F.silu(gate) * self.up_proj(x)).clamp(-CLIPS.hidden, CLIPS.hidden)
        return self.down_proj(self.norm(hidden))


class MixtureOfExperts(nn.Module):
    """Top-k of E experts, softmax before top-k, weights renormalised, plus the shared expert with weight 1."""

    def __init__(self, config: EmberNetConfig) -> None:
        super().__init__()
        self.top_k = config.num_experts_per_tok
        self.router = nn.Linear(config.hidden_size, config.num_experts)
        self.experts = nn.ModuleList(Expert(config) for _ in range(config.num_experts))
        self.shared_expert = Expert(config) if config.use_shared_expert else None

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """x (B, T, H) -> y (B, T, H), router logits (B, T, E), experts and weights (B, T, K)."""
        tokens = x.reshape(-1, x.shape[-1])
        # In float64, so that a near tie between experts does not depend on the order of summation.
        logits = F.linear(tokens.double(), self.router.weight.double(), self.router.bias.double()).float()
        weights, experts = logits.softmax(dim=-1).topk(self.top_k, dim=-1)
        weights = weights / (weights.sum(dim=-1, keepdim=True) + 1e-8)
        y = torch.zeros_like(tokens)
        for index, expert in enumerate(self.experts):
            rows, choice = (experts == index).nonzero(as_tuple=True)
            # In training an idle expert is computed too, on no rows: processes that differ in that could not join.
            if len(rows) or self.training:
                y = y.index_add(0, rows, expert(tokens[rows]) * weights[rows, choice, None])
        if self.shared_expert is not None:
            y = y + self.shared_expert(tokens)
        y = y.clamp(-CLIPS.output, CLIPS.output)
        B, T, _ = x.shape
        return y.view_as(x), logits.view(B, T, -1), experts.view(B, T, -1), weights.view(B, T, -1)


class Block(nn.Module):
    def __init__(self, config: EmberNetConfig, layer: int) -> None:
        super().__init__()
        self.input_layernorm = RMSNorm(config.hidden_size, config.rms_norm_eps)
        self.attention = Attention(config, layer)
        self.post_attention_layernorm = RMSNorm(config.hidden_size, config.rms_norm_eps)
        self.moe = MixtureOfExperts(config)

    def forward(self, x: Tensor, cos: Tensor, sin: Tensor, mask: Tensor, cache: KVCache | None) -> tuple[Tensor, ...]:
        h = x + self.attention(self.input_layernorm(x), cos, sin, mask, cache)
        y, *routing = self.moe(self.post_attention_layernorm(h))
        return h + y, *routing


class Decoder(nn.Module):
    """inputs_embeds (B, T, H) -> logits (B, T, V); the head is the embedding."""

    def __init__(self, config: EmberNetConfig) -> None:
        super().__init__()
        self.config = config
        self.embed_tokens = nn.Embedding(config.vocab_size, config.hidden_size)
        self.layers = nn.ModuleList(Block(config, layer) for layer in range(config.num_layers))
        self.norm = RMSNorm(config.hidden_size, config.rms_norm_eps)

    def forward(
        self, inputs_embeds: Tensor, attention_mask: Tensor | None = None, cache: KVCache | None = None
    ) -> tuple[Tensor, Routing, list[Tensor]]:
        """Run new positions after those in `cache`.

        attention_mask (B, past + T): 0 marks padding, on either side; a padded position never reaches another one.
        Returns logits (B, T, V), the routing, and the output of every block (B, T, H).
        """
        T = inputs_embeds.shape[1]
        past = cache.length if cache is not None else 0
        positions = torch.arange(past, past + T, device=inputs_embeds.device)
        cos, sin = rope_tables(self.config.head_dim, positions, self.config.rope_base)
        keys = torch.arange(past + T, device=inputs_embeds.device)
        mask = (keys <= positions[:, None])[None, None]
        if attention_mask is not None:
            mask = mask & attention_mask.bool()[:, None, None, :]
            # Left padding leaves its own rows without a key; they see themselves, and nobody sees them.
            mask = mask | ((keys == positions[:, None]) & ~mask.any(dim=-1, keepdim=True))
        x, routings, hidden_states = inputs_embeds, [], []
        for block in self.layers:
            x, *routing = block(x, cos, sin, mask, cache)
            routings.append(routing)
            hidden_states.append(x)
        logits = F.linear(self.norm(x), self.embed_tokens.weight)
        return logits, Routing(*(torch.stack(part) for part in zip(*routings, strict=True))), hidden_states
