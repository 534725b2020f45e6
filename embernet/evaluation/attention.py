"""Where an EmberNet looks: the decoder's attention, followed through projector and pooler to the cells of the image.

A cell is f x f patches (f the shuffle factor). Weights are averaged over heads and layers and multiplied stage by
stage; what the vision tower mixes between patches, and what flows past attention, is not followed.
"""

import math
from typing import Any

import torch
from torch import Tensor

from embernet.models.embernet.decoder import Attention, apply_rope
from embernet.models.embernet.model import EmberNet


@torch.no_grad()
def attention_on_image(model: EmberNet, input_ids: Tensor, pixel_values: Tensor) -> Tensor:
    """input_ids (1, T), pixel_values (1, 3, S, S) -> (T, side, side): what the text positions give to each cell.

    A position's cells sum to the share of its attention that is on the image.
    """
    vision = model.vision_encoder
    attentions: list[Any] = [block.attention for block in model.decoder.layers]
    readers = [vision.pooler.attn, *vision.projector.cross_attn_layers]
    inputs: dict[Any, tuple[Any, ...]] = {}
    hooks = [
        module.register_forward_pre_hook(lambda module, arguments: inputs.update({module: arguments}))
        for module in [*readers, *attentions]
    ]
    try:
        model(input_ids, pixel_values)
    finally:
        for hook in hooks:
            hook.remove()
    num_image = model.config.num_image_tokens
    decoder = torch.stack([_decoder_weights(attention, *inputs[attention][:4]) for attention in attentions]).mean(0)
    pooler, *projector = [reader(*inputs[reader], need_weights=True)[1][0] for reader in readers]
    cells = decoder[num_image:, :num_image] @ torch.stack(projector).mean(0) @ pooler
    side = math.isqrt(cells.shape[1])
    return cells.view(-1, side, side)


def _decoder_weights(attention: Attention, x: Tensor, cos: Tensor, sin: Tensor, mask: Tensor) -> Tensor:
    """One layer's attention (T, T) of a single sequence, mean of its heads."""
    T = x.shape[1]
    q, k = (
        apply_rope(projection(x).view(1, T, -1, attention.head_dim).transpose(1, 2), cos, sin)
        for projection in (attention.q_proj, attention.k_proj)
    )
    k = k.repeat_interleave(q.shape[1] // k.shape[1], dim=1)
    scores = (q @ k.transpose(2, 3) / math.sqrt(attention.head_dim)).masked_fill(~mask, -math.inf)
    return scores.softmax(dim=-1)[0].mean(dim=0)
