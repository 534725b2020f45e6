"""Between text and token ids, with the bundle's tokenizer."""

import json
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from tokenizers import Tokenizer
from tokenizers.decoders import DecodeStream

from embernet.errors import BundleError, InputError


@dataclass(frozen=True)
class Encoded:
    """Token ids, and the words that the vocabulary does not know."""

    ids: list[int]
    unknown_words: list[str]


class TextCodec:
    """Encodes prompts (adding no special token by itself) and decodes answers as they come."""

    def __init__(self, path: Path, vocab_size: int) -> None:
        self._path = path
        try:
            self._tokenizer = Tokenizer.from_file(str(path))
        except Exception as error:  # tokenizers raises plain Exception
            raise BundleError(f"{path}: not a tokenizer ({error})") from None
        # A prompt is encoded as it is, whatever the tokenizer's author did to training texts.
        self._tokenizer.no_truncation()
        self._tokenizer.no_padding()
        largest = max(self._tokenizer.get_vocab().values(), default=-1)
        if largest >= vocab_size:
            raise BundleError(f"{path}: its ids reach {largest}, but the model's vocabulary ends at {vocab_size - 1}")
        unknown = json.loads(self._tokenizer.to_str())["model"].get("unk_token")
        self._unknown_id = None if unknown is None else self._tokenizer.token_to_id(unknown)
        special = [t.content for t in self._tokenizer.get_added_tokens_decoder().values() if t.special and t.content]
        self._special = re.compile("|".join(map(re.escape, special)) or r"(?!)", re.IGNORECASE)

    def encode(self, template: str, prompt: str) -> Encoded:
        """A template with a user's prompt in place of {prompt}.

        Special tokens in the prompt become spaces: nothing a user types is an image or the end of a turn to the model.
        """
        if not prompt.strip():
            raise InputError("the prompt is empty")
        try:
            prompt.encode()
        except UnicodeEncodeError as error:
            raise InputError(f"the prompt is not valid Unicode text ({error.reason} at {error.start})") from None
        text = template.replace("{prompt}", self._special.sub(" ", prompt))
        with _tokenizing(self._path):
            encoding = self._tokenizer.encode(text, add_special_tokens=False)
        unknown = [
            text[start:end]
            for token, (start, end) in zip(encoding.ids, encoding.offsets, strict=True)
            if token == self._unknown_id
        ]
        return Encoded(encoding.ids, unknown)

    def stream(self) -> "TextStream":
        return TextStream(self._path, self._tokenizer)


class TextStream:
    """Turns ids into text one at a time; a piece never ends inside a character. text: all pieces so far."""

    def __init__(self, path: Path, tokenizer: Tokenizer) -> None:
        self._path = path
        self._tokenizer = tokenizer
        self._stream = DecodeStream(skip_special_tokens=True)
        self._ids: list[int] = []
        self.text = ""

    def feed(self, token: int) -> str:
        """The text that this token completes; empty while a character is unfinished."""
        self._ids.append(token)
        with _tokenizing(self._path):
            piece = self._stream.step(self._tokenizer, token) or ""
        self.text += piece
        return piece

    def flush(self) -> str:
        """The rest of the text when no token follows: a character that stayed unfinished."""
        with _tokenizing(self._path):
            text = self._tokenizer.decode(self._ids, skip_special_tokens=True)
        rest = text[len(self.text) :] if text.startswith(self.text) else ""
        self.text += rest
        return rest


@contextmanager
def _tokenizing(path: Path) -> Iterator[None]:
    try:
        yield
    except Exception as error:  # tokenizers raises plain Exception
        raise BundleError(f"{path}: the tokenizer fails ({error})") from None
