"""Conversations to padded token ids.

A row of a batch is one image with several conversations about it, packed one after another behind the image, so that
the image is read once. A conversation sees the image and itself only, and its positions count as if it stood alone:
each is computed exactly as at inference.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import TypeAlias

import torch
from tokenizers import Tokenizer
from torch import Tensor

from embernet.models.embernet.config import EmberNetConfig
from embernet.models.embernet.model import IGNORED_LABEL

Turn: TypeAlias = tuple[str, str]  # prompt, answer
Conversation: TypeAlias = Sequence[Turn]
EncodedConversation: TypeAlias = tuple[list[int], list[int]]  # ids, targets


_SHORT = 100  # characters


@dataclass(frozen=True)
class PackedText:
    """All (B, T) int64. B images, T text positions.

    targets: the token that follows a position, IGNORED_LABEL where it is not to be learnt (prompts, padding).
    conversations: 1, 2, ... within a row, 0 = padding. positions: from 0 in every conversation.
    """

    input_ids: Tensor
    targets: Tensor
    conversations: Tensor
    positions: Tensor


class ConversationEncoder:
    """Encodes texts with a model's templates, as the runtime does."""

    def __init__(self, tokenizer: Tokenizer, config: EmberNetConfig) -> None:
        self.config = config
        self._tokenizer = tokenizer
        self._encode_short = lru_cache(maxsize=100_000)(self._encode_long)

    def _encode(self, text: str) -> list[int]:
        # The same few thousand short texts come again and again; long ones do not, and would fill the memory.
        return self._encode_short(text) if len(text) <= _SHORT else self._encode_long(text)

    def _encode_long(self, text: str) -> list[int]:
        ids: list[int] = self._tokenizer.encode(text, add_special_tokens=False).ids
        return ids

    def prompt(self, text: str, first: bool = True) -> list[int]:
        """Token ids of one prompt: the first of a conversation, or a later one."""
        if first:
            return [self.config.bos_token_id, *self._encode(self.config.prompt_template.replace("{prompt}", text))]
        return [*self._encode(self.config.turn_template.replace("{prompt}", text))]

    def answer(self, text: str) -> list[int]:
        """Token ids of an answer and its end."""
        return [*self._encode(text), self.config.eos_token_id]

    def conversation(self, turns: Conversation) -> EncodedConversation:
        """Token ids of a conversation, and what is to be predicted at each: the answers and their ends."""
        ids: list[int] = []
        targets: list[int] = []
        for prompt, answer in turns:
            prompt_ids = self.prompt(prompt, first=not ids)
            answer_ids = self.answer(answer)
            ids += prompt_ids + answer_ids
            # A position predicts the next one, so the answer is learnt from the prompt's last position onwards.
            targets += [IGNORED_LABEL] * (len(prompt_ids) - 1) + answer_ids + [IGNORED_LABEL]
        return ids[:-1], targets[:-1]

    def pack(self, rows: Sequence[Sequence[Conversation]]) -> PackedText:
        """One row per image: its conversations one after another, padded to the longest row."""
        return self.pad([[self.conversation(turns) for turns in row] for row in rows])

    def pad(self, rows: Sequence[Sequence[EncodedConversation]]) -> PackedText:
        """The same of conversations that are encoded already."""
        packed: list[list[Tensor]] = []
        for row in rows:
            input_ids: list[int] = []
            targets: list[int] = []
            conversations: list[int] = []
            positions: list[int] = []
            for number, (ids, ids_targets) in enumerate(row, start=1):
                input_ids += ids
                targets += ids_targets
                conversations += [number] * len(ids)
                positions += range(len(ids))
            packed.append([torch.tensor(column) for column in (input_ids, targets, conversations, positions)])
        padding = (self.config.pad_token_id, IGNORED_LABEL, 0, 0)
        return PackedText(
            *(
                torch.nn.utils.rnn.pad_sequence(list(column), batch_first=True, padding_value=value)
                for column, value in zip(zip(*packed, strict=True), padding, strict=True)
            )
        )
