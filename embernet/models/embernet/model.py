"""EmberNet: an image and a text in, logits out.

Image tokens always come first, before the text's first token; the `<image>` placeholder stays in the text as one
padding embedding, as in the published model (functional details: docs/families/embernet.md).
"""

import math
import re
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from embernet.errors import InputError
from embernet.models.embernet.config import EMBEDDING_CLIP, EmberNetConfig
from embernet.models.embernet.decoder import Decoder, KVCache, Routing
from embernet.models.embernet.vision import VisionEncoder

IGNORED_LABEL = -100

_NORMS = re.compile(r"(norm\d?|ln_q|ln_ff)\.weight$")
_TABLES = re.compile(r"(embed_tokens|position_embedding|router)\.weight$|(queries|query_tokens|probe|image_newline)$")


@dataclass
class EmberNetOutput:
    """One forward pass over I image positions followed by T text positions.

    logits (B, I+T, V); routing over all positions; hidden_states: output of every block (B, I+T, H).
    loss: mean cross-entropy of the labels given, else None.
    """

    logits: Tensor
    routing: Routing
    hidden_states: list[Tensor]
    cache: KVCache | None = None
    loss: Tensor | None = None


class EmberNet(nn.Module):
    def __init__(self, config: EmberNetConfig) -> None:
        super().__init__()
        self.config = config
        self.vision_encoder = VisionEncoder(config)
        self.decoder = Decoder(config)
        if config.unused_parameters:
            self.image_newline = nn.Parameter(torch.empty(config.hidden_size))

    @classmethod
    def tensor_shapes(cls, config: EmberNetConfig) -> dict[str, tuple[int, ...]]:
        """Names and shapes of every tensor of such a model, without making one."""
        with torch.device("meta"):
            return {name: tuple(tensor.shape) for name, tensor in cls(config).state_dict().items()}

    @staticmethod
    def initial_value(name: str, shape: tuple[int, ...], rng: np.random.Generator) -> np.ndarray:
        """Draw the tensor called `name` of a new model, float32: norms 1, biases 0, the rest scaled by its fan-in."""
        if name.endswith("bias"):
            return np.zeros(shape, np.float32)
        if _NORMS.search(name):
            return np.ones(shape, np.float32)
        std = 0.02 if _TABLES.search(name) else 1 / math.sqrt(math.prod(shape[1:]))
        return rng.standard_normal(shape, np.float32) * np.float32(std)

    def encode_image(self, pixel_values: Tensor) -> Tensor:
        """pixel_values (B, 3, S, S), or (B, N, 3, S, S) for N images -> image tokens (B, N*I, H), scaled."""
        B = pixel_values.shape[0]
        tokens = self.vision_encoder(pixel_values.flatten(0, -4)) * self.config.image_embed_scale
        return tokens.reshape(B, -1, self.config.hidden_size)

    def merge(self, input_ids: Tensor, image_tokens: Tensor | None) -> Tensor:
        """Embed input_ids (B, T) and put image_tokens (B, I, H) in front -> (B, I+T, H)."""
        if image_tokens is None:
            if int(input_ids.max()) >= self.config.vocab_size:
                raise InputError(
                    f"token id {int(input_ids.max())} is outside the vocabulary ({self.config.vocab_size})"
                )
            return self.decoder.embed_tokens(input_ids)
        placeholders = torch.tensor(self.config.image_token_ids, device=input_ids.device)
        input_ids = input_ids.masked_fill(torch.isin(input_ids, placeholders), self.config.pad_token_id)
        text = self.decoder.embed_tokens(input_ids.clamp(0, self.config.vocab_size - 1))
        return torch.cat([image_tokens, text], dim=1).clamp(-EMBEDDING_CLIP, EMBEDDING_CLIP)

    def forward(
        self,
        input_ids: Tensor,
        pixel_values: Tensor | None = None,
        attention_mask: Tensor | None = None,
        labels: Tensor | None = None,
        use_cache: bool = False,
    ) -> EmberNetOutput:
        """input_ids, attention_mask and labels (B, T) cover the text only; IGNORED_LABEL marks what is not learnt."""
        image_tokens = None if pixel_values is None else self.encode_image(pixel_values)
        embeds = self.merge(input_ids, image_tokens)
        num_image = embeds.shape[1] - input_ids.shape[1]
        if attention_mask is not None:
            attention_mask = F.pad(attention_mask, (num_image, 0), value=1)
        cache = KVCache() if use_cache else None
        logits, routing, hidden_states = self.decoder(embeds, attention_mask, cache)
        loss = None
        if labels is not None:
            targets = F.pad(labels, (num_image, 0), value=IGNORED_LABEL)[:, 1:]
            loss = F.cross_entropy(logits[:, :-1].flatten(0, 1), targets.flatten(), ignore_index=IGNORED_LABEL)
        return EmberNetOutput(logits, routing, hidden_states, cache, loss)

    @torch.no_grad()
    def generate(
        self, input_ids: Tensor, pixel_values: Tensor | None = None, max_new_tokens: int | None = None
    ) -> list[int]:
        """Greedy continuation of one sequence (1, T); ends after the end token or max_new_tokens."""
        limit = self.config.max_new_tokens if max_new_tokens is None else max_new_tokens
        output = self(input_ids, pixel_values, use_cache=True)
        logits = output.logits
        ids: list[int] = []
        while len(ids) < limit:
            ids.append(int(logits[0, -1].argmax()))
            if ids[-1] == self.config.eos_token_id:
                break
            embeds = self.decoder.embed_tokens(input_ids.new_tensor([[ids[-1]]]))
            logits, _, _ = self.decoder(embeds, cache=output.cache)
        return ids


def router_balance_loss(router_logits: Tensor) -> Tensor:
    """Published auxiliary loss of router logits (L, ..., E): even use, small logits, low entropy; mean over layers."""
    logits = router_logits.flatten(1, -2)
    probabilities = logits.softmax(dim=-1)
    E = logits.shape[-1]
    used = probabilities.mean(dim=1)
    divergence = (math.log(1 / E) - (used + 1e-8).log()).sum(dim=-1) / E / E
    log_partition = logits.logsumexp(dim=-1).mean(dim=-1)
    entropy = -(probabilities * (probabilities + 1e-8).log()).sum(dim=-1).mean(dim=-1)
    return (divergence + 0.01 * log_partition + 0.001 * entropy).mean()


def expert_supervision_loss(router_logits: Tensor, targets: Tensor) -> Tensor:
    """Cross-entropy of the last layer's router logits (L, B, T, E) to one expert per sample (B,)."""
    last = router_logits[-1].clamp(-10, 10)
    B, T, _ = last.shape
    return F.cross_entropy(last.flatten(0, 1), targets[:, None].expand(B, T).flatten())
