"""The command `embernet`: its sub-commands, its default command, and what happens when something goes wrong."""

import io
import os
import signal
import sys
from pathlib import Path
from typing import Annotated, Any, Protocol, runtime_checkable

import typer
from typer.core import TyperGroup

from embernet import EmbernetError, __version__
from embernet.cli import (
    ask,
    bench,
    caption,
    card,
    chat,
    data,
    data_synth,
    doctor,
    evaluate,
    export,
    info,
    init,
    plan,
    plot,
    train,
    verify,
)
from embernet.cli.answers import STDIN
from embernet.cli.output import print_error
from embernet.image_files import IMAGE_SUFFIXES


class _DefaultCaption(TyperGroup):
    """`embernet photo.jpg` is `embernet caption photo.jpg`, and so with options before the image."""

    def parse_args(self, ctx: Any, args: list[str]) -> Any:
        if args and args[0] not in self.commands:
            own_options = {name for parameter in self.get_params(ctx) for name in parameter.opts}
            first = Path(args[0])
            is_option = args[0].startswith("-") and args[0] not in own_options
            if args[0] == STDIN or is_option or first.suffix.lower() in IMAGE_SUFFIXES or first.exists():
                args = ["caption", *args]
        return super().parse_args(ctx, args)


app = typer.Typer(
    cls=_DefaultCaption,
    help="Ternary vision-language models: train, export, and run them on small computers.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)

# Every option can also come from the environment: EMBERNET_ and its name.
_SETTINGS = {"help_option_names": ["-h", "--help"], "auto_envvar_prefix": "EMBERNET"}
_COMMANDS = (
    caption.caption,
    ask.ask,
    chat.chat,
    info.info,
    bench.bench,
    plan.plan,
    doctor.doctor,
    verify.verify,
    card.card,
    export.export,
    train.train,
    init.init,
)
for command in _COMMANDS:
    app.command(context_settings=_SETTINGS)(command)
data_app = typer.Typer(help="Fetch, draw and look at the datasets to train on.", no_args_is_help=True)
for data_command in (data.prepare, data.show, data_synth.synth):
    data_app.command(context_settings=_SETTINGS)(data_command)
app.command(name="eval", context_settings=_SETTINGS)(evaluate.evaluate)
app.add_typer(data_app, name="data", context_settings={"help_option_names": ["-h", "--help"]})
plot_app = typer.Typer(help="Draw trainings, models and answers.", no_args_is_help=True)
for plot_command in (plot.run, plot.routing, plot.levels, plot.answer):
    plot_app.command(context_settings=_SETTINGS)(plot_command)
app.add_typer(plot_app, name="plot", context_settings={"help_option_names": ["-h", "--help"]})


@runtime_checkable
class _UsageError(Protocol):
    """What typer raises for wrong arguments, whichever click it is built on."""

    exit_code: int

    def format_message(self) -> str: ...

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
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        if getattr(sys, name) is None:  # closed by whoever started this
            setattr(sys, name, open(os.devnull, mode, encoding="utf-8"))  # noqa: SIM115  (stays open)
    if isinstance(sys.stdout, io.TextIOWrapper):  # the name of a file may hold bytes that are no text
        sys.stdout.reconfigure(errors="backslashreplace")
    try:
        code = app(prog_name="embernet", standalone_mode=False)
    except (KeyboardInterrupt, typer.Abort):
        code = 130
    except Exception as error:
        wants_json = bool({"--json", "--jsonl"} & set(sys.argv)) or _is_on("EMBERNET_JSON")
        if isinstance(error, _UsageError):
            if wants_json:
                print_error(error.format_message(), "--help", error.exit_code, as_json=True)
            else:
                error.show()
            sys.exit(error.exit_code)
        if _is_on("EMBERNET_DEBUG"):
            raise
        message, hint, code = _explain(error)
        print_error(message, hint, code, wants_json)
    sys.exit(code)


def _is_on(variable: str) -> bool:
    return os.environ.get(variable, "").lower() not in ("", "0", "false", "f", "no", "n", "off")


def _explain(error: Exception) -> tuple[str, str | None, int]:
    """What went wrong in one sentence, what to try, and the exit code."""
    if isinstance(error, EmbernetError):
        return str(error), error.hint, error.exit_code
    if isinstance(error, ModuleNotFoundError):
        return f"this command needs {error.name}, which is not installed", "pip install 'embernet[train]'", 6
    if isinstance(error, MemoryError):
        return "there is not enough memory for this", None, 5
    if isinstance(error, OSError) and error.strerror:
        return f"{error.filename or 'system'}: {error.strerror.lower()}", None, 1
    hint = "the same command after `embernet --debug`, for a report of this bug"
    return f"internal error: {type(error).__name__}: {error}", hint, 1
