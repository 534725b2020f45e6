"""`embernet bench`: how fast a bundle runs here, and what memory that takes."""

import json as json_format
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from time import monotonic
from typing import TYPE_CHECKING, Annotated

import typer

from embernet.cli.answers import choose_model
from embernet.cli.bench_rows import (
    Result,
    board_rows,
    difference_rows,
    headline,
    memory_rows,
    reservations,
    stage_rows,
    start_rows,
    workload,
)
from embernet.cli.options import HugepagesOption, JsonOption, ModelOption, QuietOption, SpinOption, ThreadsOption
from embernet.cli.output import note, print_json, print_rows, spinner
from embernet.errors import EmbernetError, InputError
from embernet.json_file import printable

if TYPE_CHECKING:
    from embernet.device.comparison import Difference

_PROGRESS_AFTER_SECONDS = 2
# What goes with a saved result; everything else says how to measure.
_OF_SAVED_RESULTS = {"saved", "compare", "report", "json", "quiet"}


def bench(
    context: typer.Context,
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
    cold_start: Annotated[
        bool,
        typer.Option("--cold-start", help="First time fresh processes, with the bundle on the disk and in memory."),
    ] = False,
    saved: Annotated[
        Path | None,
        typer.Option("--from", envvar="EMBERNET_FROM", help="Show this saved result instead of measuring."),
    ] = None,
    compare: Annotated[
        tuple[Path, Path] | None,
        typer.Option(
            "--compare",
            metavar="BEFORE NOW",
            help="Compare two saved results, the earlier one first, instead of measuring.",
        ),
    ] = None,
    report: Annotated[
        Path | None, typer.Option("--report", help="Write a page with figures here, as HTML; needs matplotlib.")
    ] = None,
    json: JsonOption = False,
    quiet: QuietOption = False,
) -> None:
    """Measure how fast a bundle runs on this machine and how much memory that takes.

    A round is an image, a prefill and an answer; the numbers are medians over the rounds. docs/benchmarking.md
    defines each. A run in which the board throttled or swapped is not valid, and ends with exit code 1.

    \b
    Examples:
      embernet bench --cold-start
      embernet bench -m model.ember -t 4 -r 10 -o before.json
      embernet bench -m model.ember -t 4 -r 10 --against before.json --report report.html
      embernet bench --compare before.json after.json --report report.html
      embernet bench --json | jq .decode_tokens_per_second
    """
    for path in (output, report):
        if path is not None and path.exists() and not path.is_file():
            raise InputError(f"{path}: exists already and is not a file")
    if report is not None:
        _require_pictures()
    from embernet.device.bench_result import read_result

    shown = saved if compare is None else compare[1]
    if shown is not None:
        _refuse_measuring(context, both=saved is not None and compare is not None)
        before = None if compare is None else (printable(str(compare[0])), read_result(compare[0]))
        result = read_result(shown)
        _show(result, before, json, quiet)
        if report is not None:
            _write_report(report, result, before, quiet)
        return
    from embernet.device.bench import count_steps, run_bench

    before = None if against is None else (printable(str(against)), read_result(against))
    name = choose_model(model, quiet)
    with _late_progress(count_steps(repetitions, cold_start), quiet) as advance:
        result = run_bench(
            name,
            threads=threads,
            hugepages=hugepages,
            spin=spin,
            n_prompt=n_prompt,
            n_gen=n_gen,
            repetitions=repetitions,
            image=image,
            cold_start=cold_start,
            progress=advance,
        )
    try:  # before it is printed: who reads that may have left
        if output is not None:
            from embernet.checkpoints import write_text

            write_text(output, json_format.dumps(result, indent=2, ensure_ascii=False, allow_nan=False) + "\n")
    finally:
        _show(result, before, json, quiet)
    if report is not None:
        _write_report(report, result, before, quiet)
    if not result["valid"]:
        raise EmbernetError(
            f"{result['model']['name']}: the run is not valid ({'; '.join(result['invalid_reasons'])})",
            hint="again, once the board is cool, well powered and has memory free",
        )


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


def _refuse_measuring(context: typer.Context, both: bool) -> None:
    """Usage error if a saved result is asked for together with something that only a measurement obeys."""
    if both:
        raise typer.BadParameter("choose one of --from and --compare")
    for parameter in context.command.params:
        source = context.get_parameter_source(parameter.name or "")
        if source is not None and source.name == "COMMANDLINE" and parameter.name not in _OF_SAVED_RESULTS:
            raise typer.BadParameter(f"{parameter.opts[-1]} is for measuring, --from and --compare show saved results")


def _require_pictures() -> None:
    """MissingExtraError without matplotlib. It is not imported yet: its memory would be counted as the model's."""
    if find_spec("matplotlib") is None:
        import embernet.plots.figure  # noqa: F401  (says how to install it)


def _show(result: Result, before: tuple[str, Result] | None, json: bool, quiet: bool) -> None:
    """Print a result, and how it compares with another one, whose name is given."""
    from embernet.device.bench_result import SCHEMA
    from embernet.device.comparison import compare, compare_conditions

    differences = [] if before is None else compare(result, before[1])
    warnings = [] if before is None else compare_conditions(result, before[1])
    for warning in warnings:
        note(warning, quiet)
    if json:
        ratios = {difference.metric: difference.ratio for difference in differences}
        comparison = {} if before is None else {"against": {"path": before[0], "ratios": ratios, "warnings": warnings}}
        print_json(SCHEMA, dict(result) | comparison)
        return
    _print(result)
    if before is not None:
        _print_differences(differences, before[0])


def _write_report(path: Path, result: Result, before: tuple[str, Result] | None, quiet: bool) -> None:
    with spinner("drawing", quiet):
        from embernet.checkpoints import write_text
        from embernet.cli.bench_page import report_page

        write_text(path, report_page(result, before))
    note(f"wrote {path}", quiet)


def _print(r: Result) -> None:
    typer.echo(headline(r))
    for line in reservations(r):
        typer.echo(line)
    typer.echo(workload(r))
    typer.echo(f"  {'':17}{'median':>12}{'p90':>12}")
    for label, median, p90, rate in stage_rows(r):
        typer.echo(f"  {label:<17}{median:>12}{p90:>12}  {rate:>16}".rstrip())
    print_rows([*memory_rows(r), *start_rows(r), *board_rows(r)], indent=2)


def _print_differences(differences: "list[Difference]", path: str) -> None:
    typer.echo(f"against {path}")
    typer.echo(f"  {'':20}{'now':>16}{'before':>16}{'ratio':>8}")
    for label, now, before, ratio, verdict in difference_rows(differences):
        typer.echo(f"  {label:<20}{now:>16}{before:>16}{ratio:>8}  {verdict}")
