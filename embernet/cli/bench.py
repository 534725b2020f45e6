"""`embernet bench`: how fast a bundle runs here, and what memory that takes."""

import json as json_format
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from time import monotonic
from typing import TYPE_CHECKING, Annotated, Any

import typer

from embernet.cli.answers import choose_model
from embernet.cli.options import HugepagesOption, JsonOption, ModelOption, QuietOption, SpinOption, ThreadsOption
from embernet.cli.output import format_bytes, note, print_json, print_rows
from embernet.errors import InputError

if TYPE_CHECKING:
    from embernet.device.comparison import Difference

_PROGRESS_AFTER_SECONDS = 2
# What the metrics of a comparison are called, and their units.
_METRICS = {
    "load_ms": ("load", "ms"),
    "preprocess_ms": ("preprocess", "ms"),
    "vision_ms": ("image", "ms"),
    "prefill_tokens_per_second": ("prefill", "ts"),
    "time_to_first_token_ms": ("first token", "ms"),
    "decode_tokens_per_second": ("decode", "ts"),
    "weight_bandwidth_bytes_per_second": ("weight bandwidth", "B/s"),
    "peak_rss_bytes": ("peak resident", "bytes"),
    "peak_pss_bytes": ("peak proportional", "bytes"),
    "anonymous_bytes": ("anonymous", "bytes"),
}


def bench(
    model: ModelOption = None,
    threads: ThreadsOption = None,
    hugepages: HugepagesOption = False,
    spin: SpinOption = False,
    repetitions: Annotated[
        int, typer.Option("-r", "--repetitions", min=1, max=1_000_000, help="Measured rounds, after one to warm up.")
    ] = 5,
    n_prompt: Annotated[
        int | None,
        typer.Option("-p", "--n-prompt", min=1, help="Text tokens of a prompt. Default: 84 with the image's."),
    ] = None,
    n_gen: Annotated[
        int | None, typer.Option("-n", "--n-gen", min=1, help="Tokens of an answer, end tokens or not. Default: 32.")
    ] = None,
    image: Annotated[str | None, typer.Option("--image", help="Image to look at. Default: one made in memory.")] = None,
    output: Annotated[Path | None, typer.Option("-o", "--output", help="Write the result here too, as JSON.")] = None,
    against: Annotated[Path | None, typer.Option("--against", help="Compare with this earlier result.")] = None,
    json: JsonOption = False,
    quiet: QuietOption = False,
) -> None:
    """Measure how fast a bundle runs on this machine and how much memory that takes.

    A round is an image, a prefill and an answer; the numbers are medians over the rounds. docs/benchmarking.md
    defines each.

    \b
    Examples:
      embernet bench
      embernet bench -m model.ember -t 4 -r 10 -o before.json
      embernet bench -m model.ember -t 4 -r 10 --against before.json
      embernet bench --json | jq .decode_tokens_per_second
    """
    if output is not None and output.exists() and not output.is_file():
        raise InputError(f"{output}: exists already and is not a file")
    from embernet.device.bench import SCHEMA, STAGES, run_bench
    from embernet.device.comparison import compare, compare_conditions, read_result

    before = None if against is None else read_result(against)
    name = choose_model(model, quiet)
    with _late_progress((repetitions + 1) * len(STAGES), quiet) as advance:
        result = run_bench(
            name,
            threads=threads,
            hugepages=hugepages,
            spin=spin,
            n_prompt=n_prompt,
            n_gen=n_gen,
            repetitions=repetitions,
            image=image,
            progress=advance,
        )
    differences = [] if before is None else compare(result, before)
    warnings = [] if before is None else compare_conditions(result, before)
    for warning in warnings:
        note(warning, quiet)
    if json:
        ratios = {difference.metric: difference.ratio for difference in differences}
        comparison = {"against": {"path": str(against), "ratios": ratios, "warnings": warnings}}
        print_json(SCHEMA, result | ({} if before is None else comparison))
    else:
        _print(result)
        if before is not None:
            _print_differences(differences, str(against))
    if output is not None:
        from embernet.checkpoints import write_text

        write_text(output, json_format.dumps(result, indent=2, ensure_ascii=False, allow_nan=False) + "\n")


@contextmanager
def _late_progress(total: int, quiet: bool) -> Iterator[Callable[[int], None]]:
    """One line on stderr, where that is a terminal, once this takes longer than two seconds.

    It is written between measurements only, and needs no package whose memory would be counted.
    """
    started, done, shown = monotonic(), 0, False

    def advance(count: int) -> None:
        nonlocal done, shown
        done += count
        if not quiet and sys.stderr.isatty() and monotonic() - started > _PROGRESS_AFTER_SECONDS:
            shown = True
            typer.echo(f"\rmeasuring {done / total:4.0%}", err=True, nl=False)

    try:
        yield advance
    finally:
        if shown:
            typer.echo(f"\r{'':14}\r", err=True, nl=False)


def _print(r: Mapping[str, Any]) -> None:
    typer.echo(
        f"{r['model']['name']}: {format_bytes(r['model_size'])}, {r['model_n_params']:,} parameters; "
        f"{r['cpu_info'] or 'processor not known'}, threads {r['n_threads']}, kernels {r['kernel']}"
    )
    if r["emulated"]:
        typer.echo("EMULATED: these are not the times of a real processor")
    typer.echo(f"{r['n_image']} image + {r['n_prompt']} prompt + {r['n_gen']} new tokens, rounds {r['repetitions']}")
    typer.echo(f"  {'':17}{'median':>12}{'p90':>12}")
    prefill, decode = (_format(r[f"{name}_tokens_per_second"], "ts") for name in ("prefill", "decode"))
    for label, name, rate in (
        ("load", "load", ""),
        ("preprocess", "preprocess", ""),
        ("image", "vision", ""),
        ("prefill", "prefill", prefill),
        ("first token", "time_to_first_token", ""),
        ("further token", "token", decode),
    ):
        p90 = _format(r[f"{name}_p90_ms"], "ms") if f"{name}_p90_ms" in r else ""
        typer.echo(f"  {label:<17}{_format(r[f'{name}_ms'], 'ms'):>12}{p90:>12}  {rate:>16}".rstrip())
    share = ""
    if r["weight_bandwidth_share"] is not None:
        share = (
            f", {r['weight_bandwidth_share']:.1%} of {_format(r['read_bandwidth_bytes_per_second'], 'B/s')} "
            f"({r['read_bandwidth_source']} of {format_bytes(r['read_bandwidth_size_bytes'])})"
        )
    print_rows(
        [
            ("weights per token", format_bytes(r["decode_weight_bytes"])),
            ("weight bandwidth", _format(r["weight_bandwidth_bytes_per_second"], "B/s") + share),
            ("peak resident", _format(r["peak_rss_bytes"], "bytes")),
            ("peak proportional", _format(r["peak_pss_bytes"], "bytes")),
            ("anonymous", _format(r["anonymous_bytes"], "bytes")),
        ],
        indent=2,
    )


def _print_differences(differences: "list[Difference]", path: str) -> None:
    typer.echo(f"against {path}")
    typer.echo(f"  {'':20}{'now':>16}{'before':>16}{'ratio':>8}")
    for difference in differences:
        label, unit = _METRICS[difference.metric]
        ratio = "" if difference.ratio is None else f"{difference.ratio:.2f}"
        now, before = (_format(value, unit) for value in (difference.now, difference.before))
        typer.echo(f"  {label:<20}{now:>16}{before:>16}{ratio:>8}  {difference.verdict}")


def _format(value: float | None, unit: str) -> str:
    """A figure with its unit: three digits and more of it."""
    if value is None:
        return "unknown"
    if unit in ("bytes", "B/s"):
        return format_bytes(value) + ("/s" if unit == "B/s" else "")
    digits = 2 if value < 10 else 1 if value < 100 else 0
    return f"{value:.{digits}f} {'tokens/s' if unit == 'ts' else unit}"
