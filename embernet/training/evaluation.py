"""Exact match of greedy answers, by domain and kind, beside what a blind guess would score."""

from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence

import torch
from torch import Tensor

from embernet.data.scores import Item, Score, items_of, tally
from embernet.models.embernet.decoder import KVCache
from embernet.models.embernet.model import EmberNet
from embernet.training.batches import ConversationEncoder
from embernet.training.pool import Pool


def evaluate(
    model: EmberNet, encoder: ConversationEncoder, pool: Pool, guesses: Mapping[str, str], batch_size: int = 100
) -> dict[str, dict[str, Score]]:
    """Ask everything about every drawing, each question as the first of a conversation; scores by domain and kind."""
    results: dict[str, list[tuple[Item, bool]]] = defaultdict(list)
    for item, is_right in _answer_all(model, encoder, pool, batch_size):
        results[pool.texts[item.image].domain].append((item, is_right))
    return {domain: tally(results[domain], guesses) for domain in sorted(results)}


def _answer_all(
    model: EmberNet, encoder: ConversationEncoder, pool: Pool, batch_size: int
) -> Iterator[tuple[Item, bool]]:
    images = torch.cat(
        [
            _encode(model, pool.pixel_values(range(start, min(start + batch_size, len(pool)))))
            for start in range(0, len(pool), batch_size)
        ]
    )
    # Prompts of one length share a batch, so that nothing is padded and each row is computed as if it were alone.
    by_length: dict[int, list[tuple[Item, list[int]]]] = defaultdict(list)
    for item in items_of(pool.texts):
        ids = encoder.prompt(item.prompt)
        by_length[len(ids)].append((item, ids))
    for group in by_length.values():
        for start in range(0, len(group), batch_size):
            batch = group[start : start + batch_size]
            prompts = torch.tensor([ids for _, ids in batch])
            answers = generate_batch(model, images[[item.image for item, _ in batch]], prompts)
            for (item, _), answer in zip(batch, answers, strict=True):
                yield item, answer == encoder.answer(item.answer)


@torch.no_grad()
def generate_batch(
    model: EmberNet,
    image_tokens: Tensor,
    input_ids: Tensor,
    on_token: Callable[[Tensor], object] = lambda _experts: None,
) -> list[list[int]]:
    """Greedy answers to prompts of one length: image_tokens (B, I, H), input_ids (B, T) -> ids with the end token.

    on_token is called for every new token with the experts (L, B, K) that computed it.
    """
    config, cache = model.config, KVCache()
    logits, routing, _ = model.decoder(model.merge(input_ids, image_tokens), cache=cache)
    columns: list[Tensor] = []
    ended = torch.zeros(len(input_ids), dtype=torch.bool, device=input_ids.device)
    while len(columns) < config.max_new_tokens and not ended.all():
        columns.append(logits[:, -1].argmax(dim=-1))
        on_token(routing.experts[:, :, -1])
        ended |= columns[-1] == config.eos_token_id
        logits, routing, _ = model.decoder(model.decoder.embed_tokens(columns[-1][:, None]), cache=cache)
    return [_until(ids, config.eos_token_id) for ids in torch.stack(columns, dim=1).tolist()]


@torch.no_grad()
def _encode(model: EmberNet, pixel_values: Tensor) -> Tensor:
    return model.encode_image(pixel_values)


def _until(ids: Sequence[int], end: int) -> list[int]:
    return [*ids[: ids.index(end) + 1]] if end in ids else [*ids]
