"""Errors that a user can act on: one sentence, the thing it is about, and what to do next.

Each class carries the exit code of the command line (docs/cli.md), so that a script and a program that embeds
the library can tell the same cases apart.
"""


class EmbernetError(Exception):
    """Something a user can act on. `str(error)` is one sentence; `hint` says what to type or do next."""

    exit_code = 1

    def __init__(self, message: str, hint: str | None = None) -> None:
        super().__init__(message)
        self.hint = hint


class InputError(EmbernetError):
    """An image, a prompt, a checkpoint or a configuration that cannot be used."""

    exit_code = 3


class BundleError(EmbernetError):
    """A bundle that is missing, broken, cut or written by a newer version."""

    exit_code = 4


class OutOfMemoryError(EmbernetError):
    """Something does not fit in memory."""

    exit_code = 5


class MissingExtraError(EmbernetError):
    """A command needs a package of an extra, or a program, that is not installed."""

    exit_code = 6


class NetworkError(EmbernetError):
    """Something had to be fetched and could not be."""

    exit_code = 7


def system_reason(error: OSError) -> str:
    """What the system says went wrong, for the middle of a sentence."""
    return (error.strerror or str(error)).lower()
