"""Files from the Hugging Face hub, for commands that were given `user/repo[@revision]` instead of a path."""

import re
from pathlib import Path

from embernet.errors import MissingExtraError, NetworkError

_REPOSITORY = re.compile(r"[\w.-]+/[\w.-]+(@[\w./-]+)?")


def is_repository(text: str) -> bool:
    """Whether a text has the form user/repo or user/repo@revision."""
    return _REPOSITORY.fullmatch(text) is not None


def download_file(repository: str, name: str) -> Path:
    """Fetch one file of `user/repo[@revision]` into the hub's cache; NetworkError if that fails."""
    try:
        from huggingface_hub import hf_hub_download
    except ImportError:
        raise MissingExtraError(
            "fetching from the hub needs huggingface_hub, which is not installed", hint="pip install 'embernet[train]'"
        ) from None
    repo, _, revision = repository.partition("@")
    try:
        return Path(hf_hub_download(repo, name, revision=revision or None))
    except Exception as error:  # the hub client raises errors of several libraries
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise NetworkError(f"{repository}: {name} cannot be fetched ({reason})") from None
