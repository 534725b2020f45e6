"""Pixels to image tokens: SigLIP tower, compressor, pooler, projector.

Shapes: B batch, P patches, C vision_hidden_size, I num_image_tokens, H hidden_size, f shuffle_factor.
    pixel_values (B, 3, S, S) -> tower (B, P, C) -> compressor (B, P/f^2, C) -> pooler (B, I, C) -> projector (B, I, H)

Before the tower there may be a stem: then the patches are cut from its features instead of the pixels.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import SiglipVisionConfig, SiglipVisionModel

from embernet.layers.bitlinear import BitLinear, RMSNorm
from embernet.models.embernet.config import VISION_RMS_EPS, EmberNetConfig


def build_stem(config: EmberNetConfig) -> nn.Sequential:
    """Convolutions that each halve the sides, with ReLU (arXiv:2106.14881); of no channels, what changes nothing."""
    layers: list[nn.Module] = []
    channels = 3
    for width in config.stem_channels:
        layers += [nn.Conv2d(channels, width, kernel_size=4, stride=2, padding=1), nn.ReLU()]
        channels = width
    return nn.Sequential(*layers)


def build_tower(config: EmberNetConfig) -> SiglipVisionModel:
    """A SigLIP vision tower with random weights, for what the stem gives; made from the configuration alone."""
    reduction = 2 ** len(config.stem_channels)
    return SiglipVisionModel(
        SiglipVisionConfig(
            hidden_size=config.vision_hidden_size,
            intermediate_size=config.vision_intermediate_size,
            num_hidden_layers=config.vision_num_layers,
            num_attention_heads=config.vision_num_heads,
            num_channels=[3, *config.stem_channels][-1],
            image_size=config.image_size // reduction,
            patch_size=config.patch_size // reduction,
            layer_norm_eps=config.vision_norm_eps,
            hidden_act="gelu_pytorch_tanh",
            vision_use_head=config.unused_parameters,
        )
    )


class Compressor(nn.Module):
    """Join f x f neighbouring patches into one token: (B, P, C) -> (B, ceil(sqrt(P)/f)^2, C)."""

    def __init__(self, hidden_size: int, shuffle_factor: int) -> None:
        super().__init__()
        self.shuffle_factor = shuffle_factor
        joined = hidden_size * shuffle_factor**2
        self.pre_norm = RMSNorm(joined, VISION_RMS_EPS)
        self.proj = nn.Linear(joined, hidden_size)
        self.post_norm = RMSNorm(hidden_size, VISION_RMS_EPS)

    def forward(self, x: Tensor) -> Tensor:
        B, P, C = x.shape
        f, side = self.shuffle_factor, int(P**0.5)
        x = x.view(B, side, side, C)
        missing = -side % f
        x = F.pad(x, (0, 0, 0, missing, 0, missing))
        cells = (side + missing) // f
        # Channel order within a cell: row, column, channel.
        x = x.view(B, cells, f, cells, f, C).permute(0, 1, 3, 2, 4, 5).reshape(B, cells * cells, f * f * C)
        return self.post_norm(self.proj(self.pre_norm(x)))


class Pooler(nn.Module):
    """Learned queries read the compressed tokens: (B, N, C) -> (B, I, C)."""

    def __init__(self, hidden_size: int, num_queries: int, num_heads: int) -> None:
        super().__init__()
        self.queries = nn.Parameter(torch.empty(1, num_queries, hidden_size))
        self.attn = nn.MultiheadAttention(hidden_size, num_heads, batch_first=True)
        self.norm = RMSNorm(hidden_size, VISION_RMS_EPS)

    def forward(self, x: Tensor) -> Tensor:
        queries = self.queries.expand(x.shape[0], -1, -1)
        return self.norm(queries + self.attn(queries, x, x, need_weights=False)[0])


class Projector(nn.Module):
    """Learned queries read the pooled tokens in the decoder's width: (B, N, C) -> (B, I, H)."""

    def __init__(self, config: EmberNetConfig) -> None:
        super().__init__()
        H, quantizer, eps = config.hidden_size, config.quantizer, config.bitlinear_norm_eps
        self.query_tokens = nn.Parameter(torch.empty(1, config.num_image_tokens, H))
        self.vision_proj = BitLinear(config.vision_hidden_size, H, quantizer, norm_eps=eps)
        self.cross_attn_layers = nn.ModuleList(
            nn.MultiheadAttention(H, config.resampler_num_heads, batch_first=True)
            for _ in range(config.num_cross_attention_layers)
        )
        self.ffn = nn.Sequential(
            BitLinear(H, 4 * H, quantizer, norm_eps=eps), nn.GELU(), BitLinear(4 * H, H, quantizer, norm_eps=eps)
        )
        self.ln_q = RMSNorm(H, VISION_RMS_EPS)
        self.ln_ff = RMSNorm(H, VISION_RMS_EPS)

    def forward(self, x: Tensor) -> Tensor:
        v = self.vision_proj(x)
        q = self.query_tokens.expand(x.shape[0], -1, -1)
        for attention in self.cross_attn_layers:
            q = self.ln_q(q + attention(q, v, v, need_weights=False)[0])  # one norm for all layers, as published
        return self.ln_ff(q + self.ffn(q))


class VisionEncoder(nn.Module):
    """pixel_values (B, 3, S, S) -> image tokens (B, I, H), before `image_embed_scale`."""

    def __init__(self, config: EmberNetConfig) -> None:
        super().__init__()
        self.stem = build_stem(config)
        self.encoder = build_tower(config)
        self.compressor = Compressor(config.vision_hidden_size, config.shuffle_factor)
        self.pooler = Pooler(config.vision_hidden_size, config.num_image_tokens, config.resampler_num_heads)
        self.projector = Projector(config)

    def patches(self, pixel_values: Tensor) -> Tensor:
        """pixel_values (B, 3, S, S) -> the tower's features (B, P, C)."""
        features: Tensor = self.encoder(self.stem(pixel_values)).last_hidden_state
        return features

    def forward(self, pixel_values: Tensor) -> Tensor:
        return self.projector(self.pooler(self.compressor(self.patches(pixel_values))))
