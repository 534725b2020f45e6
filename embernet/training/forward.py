"""The forward pass over packed conversations (see `batches`)."""

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from embernet.models.embernet.decoder import rope_tables
from embernet.models.embernet.model import IGNORED_LABEL, EmberNet
from embernet.training.batches import PackedText


@dataclass
class PackedOutput:
    """losses (targets,): cross-entropy of each target, row by row.

    router_logits (L, tokens, E) and rows (tokens,): of every position that is not padding, and its row.
    """

    losses: Tensor
    router_logits: Tensor
    rows: Tensor

    @property
    def loss(self) -> Tensor:
        """Mean cross-entropy of the targets."""
        return self.losses.mean()


def packed_forward(
    model: EmberNet,
    image_tokens: Tensor,
    text: PackedText,
    has_image: Tensor | None = None,
    recompute: bool = False,
) -> PackedOutput:
    """image_tokens (B, I, H): what `encode_image` returns.

    has_image (B,): where False, the row's image is as padding; RoPE counts distances, so that the text is computed as
    without one. recompute: keep no activations inside the blocks, which costs time and saves memory.
    """
    decoder, num_image = model.decoder, image_tokens.shape[1]
    x = model.merge(text.input_ids, image_tokens)
    B, T, _ = x.shape
    image_positions = torch.arange(num_image, device=x.device).expand(B, -1)
    positions = torch.cat([image_positions, text.positions + num_image], dim=1)
    # The image is part of every conversation: a key is seen from its own conversation and, the image's, from all.
    owner = F.pad(text.conversations, (num_image, 0), value=-1)
    if has_image is not None:
        owner = owner.masked_fill(~has_image[:, None] & (owner == -1), 0)
    key, query = owner[:, None, None, :], owner[:, None, :, None]
    causal = torch.ones(T, T, dtype=torch.bool, device=x.device).tril()
    mask = causal & ((key == query) | (key == -1))
    cos, sin = rope_tables(decoder.config.head_dim, positions.flatten(), decoder.config.rope_base)
    cos, sin = (table.view(B, 1, T, -1) for table in (cos, sin))
    router_logits = []
    for block in decoder.layers:
        if recompute:
            x, logits, _, _ = checkpoint(block, x, cos, sin, mask, None, use_reentrant=False)
        else:
            x, logits, _, _ = block(x, cos, sin, mask, None)
        router_logits.append(logits)
    learnt = F.pad(text.targets, (num_image, 0), value=IGNORED_LABEL) != IGNORED_LABEL
    vocabulary_logits = F.linear(decoder.norm(x[learnt]), decoder.embed_tokens.weight)
    targets = text.targets[text.targets != IGNORED_LABEL]
    losses = F.cross_entropy(vocabulary_logits, targets, reduction="none")
    is_token = owner != 0
    return PackedOutput(losses, torch.stack(router_logits)[:, is_token], is_token.nonzero()[:, 0])
