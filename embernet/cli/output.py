"""What commands print: answers and JSON on stdout; notes and progress on stderr."""

import json
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any

import typer

from embernet.json_file import printable

WIDTH = 80  # of a terminal, for what is made of sentences


def print_json(schema: str, values: dict[str, Any], pretty: bool = True) -> None:
    """Print one JSON object on stdout, its schema first. NaN and infinity are refused: they are not JSON."""
    text = json.dumps({"schema": schema} | values, indent=2 if pretty else None, ensure_ascii=False, allow_nan=False)
    typer.echo(printable(text))


def note(text: str, quiet: bool = False) -> None:
    """Say something on stderr that is not the answer."""
    if not quiet:
        say(f"embernet: {text}")


def print_error(message: str, hint: str | None, code: int, as_json: bool) -> None:
    """Say on stderr in one sentence what went wrong, and what to try."""
    message = message.replace("\n", "\\n")  # a file's name may hold one
    if as_json:
        error = {"schema": "embernet.error/1", "code": code, "message": message, "hint": hint}
        say(json.dumps(error, ensure_ascii=False))
    else:
        say(f"embernet: {message}")
        if hint:
            say(f"try: {hint}")


def say(line: str) -> None:
    """Print on stderr."""
    with suppress(OSError):  # a log on a full disk must not end the work
        typer.echo(line, err=True)


def print_rows(rows: list[tuple[str, str]], indent: int = 0) -> None:
    """Print aligned `label  value` lines on stdout."""
    width = max(len(label) for label, _ in rows)
    for label, value in rows:
        typer.echo(f"{'':{indent}}{label:<{width}}  {value}")


def format_bytes(count: float) -> str:
    """1234567 -> '1.23 MB' (decimal units, as file managers show)."""
    for unit in ("bytes", "kB", "MB"):
        if count < 999.5:  # what would be rounded to 1000 is one of the next unit
            return f"{count:.0f} {unit}" if unit == "bytes" else f"{count:.3g} {unit}"
        count /= 1000
    return f"{count:.3g} GB" if count < 999.5 else f"{count:,.0f} GB"


@contextmanager
def spinner(label: str, quiet: bool = False) -> Iterator[None]:
    """Show on stderr, where that is a terminal, that something is going on."""
    if quiet or not sys.stderr.isatty():
        yield
        return
    from rich.console import Console

    with Console(stderr=True).status(label):
        yield


@contextmanager
def progress(label: str, total: int, quiet: bool = False) -> Iterator[Callable[[int], None]]:
    """A progress bar on stderr where that is a terminal; yields a function that takes the amount done."""
    if quiet or not sys.stderr.isatty():
        yield lambda _amount: None
        return
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        TextColumn("{task.percentage:3.0f} %"),
        TimeElapsedColumn(),
        TextColumn("left"),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task(label, total=total)
        yield lambda amount: bar.advance(task, amount)
