"""The command `embernet`: its sub-commands, its default command, and what happens when something goes wrong."""

import json
import os
import signal
import sys
from pathlib import Path
from typing import Annotated, Any, Protocol, runtime_checkable

import typer
from typer.core import TyperGroup

from embernet import EmbernetError, __version__
from embernet.cli import ask, caption, chat, export, info, init, train, verify

_IMAGE_SUFFIXES = {".bmp", ".gif", ".jpeg", ".jpg", ".png", ".tif", ".tiff", ".webp"}


class _DefaultCaption(TyperGroup):
    """`embernet photo.jpg` is `embernet caption photo.jpg`."""

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        first = args[0]
        is_image = first == "-" or Path(first).suffix.lower() in _IMAGE_SUFFIXES or Path(first).exists()
        if first not in self.commands and is_image:
            args = ["caption", *args]
        return super().resolve_command(ctx, args)


app = typer.Typer(
    cls=_DefaultCaption,
    help="Ternary vision-language models: train, export, and run them on small computers.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)

# Every option can also come from the environment: EMBERNET_ and its name.
_SETTINGS = {"help_option_names": ["-h", "--help"], "auto_envvar_prefix": "EMBERNET"}
for command in (caption.caption, ask.ask, chat.chat, info.info, verify.verify, export.export, train.train, init.init):
    app.command(context_settings=_SETTINGS)(command)


@runtime_checkable
class _UsageError(Protocol):
    """What typer raises for wrong arguments, whichever click it is built on."""

    exit_code: int

    def show(self) -> None: ...


def _print_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"embernet {__version__}")
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[  # noqa: ARG001
        bool, typer.Option("--version", "-V", callback=_print_version, is_eager=True, help="Print the version.")
    ] = False,
    debug: Annotated[
        bool, typer.Option("--debug", help="Show the traceback of an error.", envvar="EMBERNET_DEBUG")
    ] = False,
) -> None:
    if debug:
        os.environ["EMBERNET_DEBUG"] = "1"


def main() -> None:
    """Run the command line and exit. The exit codes are in docs/cli.md."""
    signal.signal(signal.SIGPIPE, signal.SIG_DFL)  # `embernet ... | head` ends quietly
    try:
        code = app(prog_name="embernet", standalone_mode=False)
    except (KeyboardInterrupt, typer.Abort):
        code = 130
    except Exception as error:
        if isinstance(error, _UsageError):
            error.show()
            sys.exit(error.exit_code)
        if os.environ.get("EMBERNET_DEBUG"):
            raise
        code = _report(error)
    sys.exit(code)


def _report(error: Exception) -> int:
    """Say in one sentence what went wrong; return the exit code."""
    if isinstance(error, EmbernetError):
        message, hint, code = str(error), error.hint, error.exit_code
    elif isinstance(error, ModuleNotFoundError):
        message = f"this command needs {error.name}, which is not installed"
        hint, code = "pip install 'embernet[train]'", 6
    elif isinstance(error, OSError) and error.strerror:
        message, hint, code = f"{error.filename or 'system'}: {error.strerror.lower()}", None, 1
    else:
        message = f"internal error: {type(error).__name__}: {error}"
        hint, code = "the same command after `embernet --debug`, for a report of this bug", 1
    if {"--json", "--jsonl"} & set(sys.argv) or os.environ.get("EMBERNET_JSON"):
        typer.echo(json.dumps({"schema": "embernet.error/1", "code": code, "message": message, "hint": hint}), err=True)
    else:
        typer.echo(f"embernet: {message}", err=True)
        if hint:
            typer.echo(f"try: {hint}", err=True)
    return code
