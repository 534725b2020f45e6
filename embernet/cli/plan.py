"""`embernet plan`: will a bundle fit a board, and how fast would it be?"""

import textwrap
from collections.abc import Mapping
from typing import Annotated, Any

import typer

from embernet.cli.options import ContextOption, JsonOption
from embernet.cli.output import WIDTH, format_bytes, print_json, print_rows
from embernet.errors import OutOfMemoryError

_PARTS = {
    "preprocess": "preprocess",
    "image": "image",
    "prefill": "prefill",
    "token": "further token",
    "total": "whole caption",
}
_STAGES = {"load": "once loaded", "image": "image", "prefill": "prefill", "answer": "answer"}


def plan(
    bundle: Annotated[str, typer.Argument(metavar="BUNDLE", help="Bundle: a directory or a name.")],
    board: Annotated[
        str,
        typer.Option("--board", help="pi-zero-2-w, pi-3, pi-4, pi-5, or host: the machine this runs on (default)."),
    ] = "host",
    prompt_tokens: Annotated[
        int | None,
        typer.Option("-p", "--prompt-tokens", min=1, help="Text tokens of a prompt. Default: 84 with the image's."),
    ] = None,
    max_tokens: Annotated[int, typer.Option("-n", "--max-tokens", min=1, help="New tokens of a caption.")] = 20,
    context: ContextOption = None,
    json: JsonOption = False,
) -> None:
    """Estimate whether a bundle fits a board, and how fast it would be there.

    Nothing is loaded or run: sizes come from the bundle's manifest, the rest from the board's profile. docs/board.md
    says what is assumed. Ends with 5 if it does not fit.

    \b
    Examples:
      embernet plan model.ember --board pi-zero-2-w
      embernet plan spark --board pi-5 -n 40 --json
      embernet plan model.ember
    """
    from embernet.device.boards import find_board
    from embernet.device.plan import DOES_NOT_FIT, SCHEMA, make_plan
    from embernet.runtime.bundle import open_bundle

    chosen = find_board(board)
    result = make_plan(open_bundle(bundle), chosen, prompt_tokens, max_tokens, context)
    if json:
        print_json(SCHEMA, result)
    else:
        _print(result)
    if result["memory"]["verdict"] == DOES_NOT_FIT:
        raise typer.Exit(OutOfMemoryError.exit_code)


def _print(r: Mapping[str, Any]) -> None:
    board, memory = r["board"], r["memory"]
    typer.echo(f"{r['model']['name']} on {board['title']}: ESTIMATED, nothing was run")
    about = f"{board['cores']} x {board['cpu']}"
    if board["kernel"] is not None:
        about += f", {board['clock_ghz']} GHz, kernels {board['kernel']}"
    typer.echo(about)
    typer.echo(textwrap.fill(f"note: {board['note']}", WIDTH))
    typer.echo(f"{r['n_image']} image + {r['n_prompt']} prompt + {r['n_gen']} new tokens")
    if r["time"] is not None:
        _print_times(r["time"])
    _print_memory(memory)


def _print_times(times: Mapping[str, Mapping[str, Any]]) -> None:
    typer.echo(f"  {'time':<15}{'likely':>10}{'from':>10}{'to':>10}  limit")
    for name, label in _PARTS.items():
        part = times[name]
        figures = "".join(f"{_duration(part[key]):>10}" for key in ("central_ms", "fast_ms", "slow_ms"))
        limit = f"{part['limit']}{', 1 thread' if part['n_threads'] == 1 else ''}" if "limit" in part else ""
        typer.echo(f"  {label:<15}{figures}  {limit}".rstrip())


def _print_memory(m: Mapping[str, Any]) -> None:
    size = {name: format_bytes(count) for name, count in m.items() if name.endswith("_bytes") and count is not None}
    typer.echo("  memory")
    print_rows(
        [
            ("Python and engine", f"{size['process_bytes']}, and {size['code_bytes']} of mapped code"),
            ("sessions", size["sessions_bytes"]),
            ("vision weights, mapped", f"{size['vision_weight_bytes']}, let go after the image"),
            ("decoder weights, mapped", f"{size['decoder_weight_bytes']}, for prefill and answer"),
            ("embedding table, mapped", f"{size['embedding_weight_bytes']}, for prefill and answer"),
            ("keys and values", f"{size['cache_bytes']} for {m['context']} positions"),
            ("working on an image", size["image_working_bytes"]),
            ("working on the prompt", size["prefill_working_bytes"]),
        ],
        indent=4,
    )
    typer.echo("  most at once")
    print_rows([(label, format_bytes(m["peaks"][name])) for name, label in _STAGES.items()], indent=4)
    typer.echo(f"  available          {size.get('available_bytes', 'not known')}")
    typer.echo(_verdict(m))


def _verdict(m: Mapping[str, Any]) -> str:
    if m["verdict"] == "fits with a smaller context":
        return f"fits with --context {m['largest_context']}"
    if m["runs_from_disk"]:
        return "does not fit: it would run, reading weights from the disk again and again"
    return {"unknown": "whether it fits is not known here"}.get(m["verdict"], m["verdict"])


def _duration(milliseconds: float) -> str:
    """Three digits, in milliseconds or seconds."""
    if milliseconds >= 1000:
        return f"{milliseconds / 1000:.2f} s"
    digits = 0 if milliseconds >= 100 else 1 if milliseconds >= 10 else 2
    return f"{milliseconds:.{digits}f} ms"
