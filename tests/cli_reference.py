"""Writes docs/cli.md from the command line itself: `python -m tests.cli_reference`."""

import inspect
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import typer

from embernet.cli.app import app

PAGE = Path(__file__).parent.parent / "docs" / "cli.md"

INTRODUCTION = """\
# The command line

This page is generated: `python -m tests.cli_reference` writes it, and a test compares it with the commands.

`embernet photo.jpg` is `embernet caption photo.jpg`. Answers go to stdout, everything else to stderr. Every option can also come from
the environment as `EMBERNET_` and its name (`EMBERNET_MODEL`, `EMBERNET_THREADS`, ...). `EMBERNET_HOME` is the folder of named bundles
(default `~/.cache/embernet`); `embernet --debug COMMAND` or `EMBERNET_DEBUG=1` shows the traceback of an error.

| exit code | meaning |
|---|---|
| 0 | done |
| 1 | failed |
| 2 | wrong usage |
| 3 | an image, a question, a checkpoint or a configuration cannot be used |
| 4 | a bundle is missing, broken or too new |
| 5 | something does not fit in memory |
| 6 | a package of an extra, or a program, is missing, or the system has only 32 bits |
| 7 | something had to be fetched and could not be |
| 130 | interrupted; what was written is kept |

With `--json` a command prints one object whose first key is `schema` (`embernet.caption/1`, ...). Unknown values are null. An error is
`{"schema": "embernet.error/1", "code", "message", "hint"}` on stderr. An answer (`caption`, `ask`, `chat`) is

    {schema, model: {name, family, sha256}, input: {path, sha256, width, height}, text,
     finish_reason: "stop" | "length" | "interrupted", usage: {image_tokens, prompt_tokens, completion_tokens},
     timings: {load_ms, preprocess_ms, vision_ms, prefill_ms, decode_ms, total_ms, tokens_per_second},
     routing: {experts: [name], counts: [[layer x expert]], share: {name: 0..1}}, warnings: [text]}

`total_ms` is the sum of the four stages before it. Several images with `--json` give `{schema: "embernet.captions/1", results, failed}`.
With `--camera`, `--mjpeg` or `--watch`, `caption` prints one object per line, with `time`, `source` and `memory` ([camera.md](camera.md)).
"""


def reference() -> str:
    """The whole page."""
    group: Any = typer.main.get_command(app)
    return INTRODUCTION + "".join(_sections(group, ()))


def _sections(group: Any, names: tuple[str, ...]) -> Iterator[str]:
    """Sections of a group's commands, and of those of the groups in it."""
    for name, command in group.commands.items():
        if hasattr(command, "commands"):
            yield from _sections(command, (*names, name))
        else:
            yield _section(command, " ".join((*names, name)))


def _section(command: Any, name: str) -> str:
    arguments = [p for p in command.params if p.param_type_name == "argument"]
    options = [p for p in command.params if p.param_type_name == "option"]
    usage = " ".join(["embernet", name, "[OPTIONS]", *(_usage(p) for p in arguments)])
    text, _, examples = inspect.cleandoc(command.help).replace("\b", "").partition("Examples:\n")
    lines = [f"\n## {name}\n", f"    {usage}\n", text.strip() + "\n"]
    rows = [(f"`{p.metavar}`", p.help) for p in arguments]
    rows += [(", ".join(f"`{name}`" for name in (*p.opts, *p.secondary_opts)), p.help) for p in options]
    lines += ["| argument or option | meaning |", "|---|---|", *(f"| {name} | {help_} |" for name, help_ in rows)]
    if examples:
        lines += ["", *(f"    {line.strip()}" for line in examples.strip().splitlines())]
    return "\n".join(lines) + "\n"


def _usage(argument: Any) -> str:
    return argument.metavar if argument.required else f"[{argument.metavar}]"


if __name__ == "__main__":
    PAGE.write_text(reference(), encoding="utf-8")
