"""Between text and token ids, with the bundle's tokenizer."""

import json
from dataclasses import dataclass
from pathlib import Path

from tokenizers import Tokenizer
from tokenizers.decoders import DecodeStream

from embernet.errors import BundleError


@dataclass(frozen=True)
class Encoded:
    """Token ids, and the words that the vocabulary does not know."""

    ids: list[int]
    unknown_words: list[str]


class TextCodec:
    """Encodes prompts (adding no special token by itself) and decodes answers, whole or as they come."""

    def __init__(self, path: Path, vocab_size: int) -> None:
        try:
            self._tokenizer = Tokenizer.from_file(str(path))
        except Exception as error:  # tokenizers raises plain Exception
            raise BundleError(f"{path}: not a tokenizer ({error})") from None
        largest = max(self._tokenizer.get_vocab().values(), default=-1)
        if largest >= vocab_size:
            raise BundleError(f"{path}: its ids reach {largest}, but the model's vocabulary ends at {vocab_size - 1}")
        unknown = json.loads(self._tokenizer.to_str())["model"].get("unk_token")
        self._unknown_id = None if unknown is None else self._tokenizer.token_to_id(unknown)

    def encode(self, text: str) -> Encoded:
        encoding = self._tokenizer.encode(text, add_special_tokens=False)
        unknown = [
            text[start:end]
            for token, (start, end) in zip(encoding.ids, encoding.offsets, strict=True)
            if token == self._unknown_id
        ]
        return Encoded(encoding.ids, unknown)

    def decode(self, ids: list[int]) -> str:
        return self._tokenizer.decode(ids, skip_special_tokens=True)

    def stream(self) -> "TextStream":
        return TextStream(self._tokenizer)


class TextStream:
    """Turns ids into text one at a time; a piece never ends inside a character."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer
        self._stream = DecodeStream(skip_special_tokens=True)

    def feed(self, token: int) -> str:
        """The text that this token completes; empty while a character is unfinished."""
        return self._stream.step(self._tokenizer, token) or ""
