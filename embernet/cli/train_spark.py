"""`embernet train spark`: the recipe of the built-in model."""

import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from embernet.cli.output import note, print_json

if TYPE_CHECKING:
    from embernet.data.scores import Score
    from embernet.training.loop import Progress

_STEPS_PER_NOTE = 100


def train_spark_model(output: Path, seed: int, processes: int, json: bool, quiet: bool) -> None:
    """Train the next built-in model on drawings, score it on others, and print the scores."""
    from embernet.data.scores import total
    from embernet.training.spark import train_spark

    start = time.monotonic()
    with _watch(quiet) as report:
        scores = train_spark(output, seed, processes=processes, report=report)
    seconds = time.monotonic() - start
    if json:
        print_json(
            "embernet.train/2",
            {
                "path": str(output),
                "preset": "spark",
                "seed": seed,
                "processes": processes,
                "train_seconds": round(seconds, 1),
                "validation": {
                    domain: total(kinds.values()).to_dict() | {"kinds": {k: s.to_dict() for k, s in kinds.items()}}
                    for domain, kinds in scores.items()
                },
            },
        )
    else:
        typer.echo(f"{output}: trained in {seconds / 60:.0f} minutes")
        _print_scores(scores)


def _print_scores(scores: "Mapping[str, Mapping[str, Score]]") -> None:
    from embernet.data.scores import total

    rows = []
    for domain, kinds in scores.items():
        rows.append((domain, total(kinds.values())))
        rows += [(f"  {kind}", score) for kind, score in kinds.items()]
    title = "exact match on validation drawings"
    width = max(len(name) for name in (title, *(name for name, _ in rows)))
    typer.echo(f"  {title:<{width}}  accuracy  without the image  answers")
    for name, score in rows:
        typer.echo(f"  {name:<{width}}  {score.accuracy:>8.3f}  {score.prior:>17.3f}  {score.count:>7}")


@contextmanager
def _watch(quiet: bool) -> "Iterator[Callable[[Progress], None]]":
    """Yields what to call with the progress: a bar on a terminal, a line now and then elsewhere, nothing if quiet."""
    if quiet:
        yield lambda _: None
    elif sys.stderr.isatty():
        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn
        from rich.progress import Progress as Bar

        columns = (
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TextColumn("left"),
            TimeRemainingColumn(),
            TextColumn("{task.fields[values]}"),
        )
        with Bar(*columns, console=Console(stderr=True)) as bar:
            tasks = {}

            def show(progress: "Progress") -> None:
                if progress.phase not in tasks:
                    tasks[progress.phase] = bar.add_task(progress.phase, total=progress.total, values="")
                bar.update(tasks[progress.phase], completed=progress.done, values=_values(progress))

            yield show
    else:

        def write(progress: "Progress") -> None:
            interval = max(_STEPS_PER_NOTE, progress.total // 20)
            if progress.done % interval == 0 or progress.done == progress.total:
                note(f"{progress.phase} {progress.done}/{progress.total}  {_values(progress)}".rstrip())

        yield write


def _values(progress: "Progress") -> str:
    return "  ".join(f"{name} {value:.3f}" for name, value in progress.values.items())
