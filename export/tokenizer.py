"""The tokenizer of a bundle: found, checked against the model, completed with the image placeholder."""

import re
from pathlib import Path

from tokenizers import AddedToken, Tokenizer

from embernet.checkpoints import TOKENIZER_FILE
from embernet.errors import InputError
from embernet.hub import download_file, is_repository

IMAGE_PLACEHOLDER = "<image>"


def read_tokenizer(source: str | Path, vocab_size: int, image_token_ids: tuple[int, ...], template: str) -> str:
    """The tokenizer at `source` as JSON text; InputError if the model cannot use it.

    source: a tokenizer.json, a directory that holds one, or a repository of the Hugging Face hub.
    """
    path = Path(source)
    if path.is_dir():
        path = path / TOKENIZER_FILE
    if not path.exists() and is_repository(str(source)):
        path = download_file(str(source), TOKENIZER_FILE)
    if not path.is_file():
        raise InputError(f"{path}: no such tokenizer")
    try:
        tokenizer = Tokenizer.from_file(str(path))
    except Exception as error:  # tokenizers raises plain Exception
        raise InputError(f"{path}: not a tokenizer ({error})") from None
    if IMAGE_PLACEHOLDER in template and tokenizer.token_to_id(IMAGE_PLACEHOLDER) is None:
        tokenizer.add_special_tokens([AddedToken(IMAGE_PLACEHOLDER, special=True, normalized=False)])
        if tokenizer.token_to_id(IMAGE_PLACEHOLDER) not in image_token_ids:
            found, expected = tokenizer.token_to_id(IMAGE_PLACEHOLDER), " or ".join(map(str, image_token_ids)) or "none"
            raise InputError(f"{path}: {IMAGE_PLACEHOLDER} would get id {found} (expected {expected})")
    largest = max(tokenizer.get_vocab().values(), default=-1)
    if largest >= vocab_size:
        raise InputError(
            f"{path}: its ids reach {largest}, but the model's vocabulary ends at {vocab_size - 1}: "
            "this tokenizer belongs to another model"
        )
    return re.sub(r"\n*$", "\n", tokenizer.to_str(pretty=False))
