"""Files from the Hugging Face hub, for commands that were given `user/repo[@revision]` instead of a path."""

import errno
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from embernet.errors import EmbernetError, MissingExtraError, NetworkError

_REPOSITORY = re.compile(r"[\w.-]+/[\w.-]+(@[\w./-]+)?")


def is_repository(text: str) -> bool:
    """Whether a text has the form user/repo or user/repo@revision."""
    return _REPOSITORY.fullmatch(text) is not None


def download_file(repository: str, name: str) -> Path:
    """Fetch one file of `user/repo[@revision]` into the hub's cache; NetworkError if that fails."""
    hub = _library()
    repo, _, revision = repository.partition("@")
    try:
        return Path(hub.hf_hub_download(repo, name, revision=revision or None))
    except Exception as error:  # the hub client raises errors of several libraries
        raise _unfetched(f"{repository}: {name}", error) from None


def dataset_bytes(repository: str, patterns: Sequence[str], folder: Path) -> tuple[int, int]:
    """How many bytes `download_dataset` would still have to fetch, and of how many; errors as there."""
    files = _dataset_files(repository, patterns, folder)
    missing = sum(file.file_size or 0 for file in files if file.will_download)
    return missing, sum(file.file_size or 0 for file in files)


def download_dataset(repository: str, patterns: Sequence[str], folder: Path) -> None:
    """Fetch the files of a dataset repository that match one of `patterns` into `folder`.

    Files that are there already are not fetched again. NetworkError if something cannot be fetched, NotOnHubError if
    the repository or its files do not exist or are not for everybody.
    """
    hub = _library()
    # One after the other: the client's own loop over files ends at Ctrl-C only when all that it began have arrived.
    for file in _dataset_files(repository, patterns, folder):
        name, revision = file.filename, file.commit_hash
        try:
            hub.hf_hub_download(repository, name, repo_type="dataset", revision=revision, local_dir=folder)
        except Exception as error:  # as above
            raise _unfetched(f"{repository}: {name}", error) from None


class NotOnHubError(NetworkError):
    """The hub was reached, but what was asked for is not there, or asks for an account."""


def _dataset_files(repository: str, patterns: Sequence[str], folder: Path) -> Any:
    """What the hub client says of the files that match: name, size, and whether `folder` lacks them."""
    hub = _library()
    try:
        files = hub.snapshot_download(
            repository, repo_type="dataset", allow_patterns=list(patterns), local_dir=folder, dry_run=True
        )
    except Exception as error:  # as above
        raise _unfetched(repository, error) from None
    if not files:
        raise NotOnHubError(f"{repository}: has no files {' or '.join(patterns)}")
    return files


def _unfetched(what: str, error: Exception) -> EmbernetError:
    """The error for what could not be fetched: the reason in one line."""
    from huggingface_hub import errors

    if isinstance(error, errors.DryRunError) and isinstance(error.__cause__, Exception):
        error = error.__cause__
    if isinstance(error, OSError) and error.errno == errno.ENOSPC:
        return EmbernetError(f"{what} cannot be fetched (the disk is full)")
    if isinstance(error, errors.GatedRepoError):
        return NotOnHubError(f"{what}: asks for an account that agreed to its terms", hint="hf auth login")
    if isinstance(error, errors.RepositoryNotFoundError):
        return NotOnHubError(f"{what}: is not on the hub, or is not public")
    reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
    return NetworkError(f"{what} cannot be fetched ({reason})")


def _library() -> Any:
    try:
        import huggingface_hub
    except ImportError:
        raise MissingExtraError(
            "fetching from the hub needs huggingface_hub, which is not installed", hint="pip install 'embernet[train]'"
        ) from None
    return huggingface_hub
