"""`embernet plot`: pictures of trainings, models and answers."""

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, TypeAlias

import typer

from embernet.cli.answers import STDIN, choose_model
from embernet.cli.options import QuietOption
from embernet.cli.output import spinner

if TYPE_CHECKING:
    from embernet.plots.figure import Figure

OutputOption: TypeAlias = Annotated[Path, typer.Option("-o", "--output", help="Picture to write, .png or .svg.")]


def run(
    folder: Annotated[Path, typer.Argument(metavar="RUN_DIR", help="Folder of one stage, with metrics.jsonl.")],
    output: OutputOption,
    quiet: QuietOption = False,
) -> None:
    """Draw loss, learning rate, gradient norm and the experts' shares of a training run.

    \b
    Examples:
      embernet plot run checkpoints/stage2 -o run.png
    """
    from embernet.plots.figure import require_picture_name
    from embernet.plots.run import plot_run

    require_picture_name(output)
    with spinner("drawing", quiet):
        _write(plot_run(folder), output)


def routing(
    report: Annotated[Path, typer.Argument(metavar="EVAL_JSON", help="What `embernet eval -o` wrote.")],
    output: OutputOption,
    quiet: QuietOption = False,
) -> None:
    """Draw which experts answered questions of which domain, layer by layer.

    \b
    Examples:
      embernet plot routing eval.json -o routing.svg
    """
    from embernet.plots.figure import require_picture_name
    from embernet.plots.routing import plot_routing

    require_picture_name(output)
    with spinner("drawing", quiet):
        _write(plot_routing(report), output)


def levels(
    model: Annotated[str, typer.Argument(metavar="MODEL", help="Checkpoint or bundle.")],
    output: OutputOption,
    quiet: QuietOption = False,
) -> None:
    """Draw the shares of -1, 0 and +1: part by part of a checkpoint, all together of a bundle.

    \b
    Examples:
      embernet plot levels checkpoints/stage2/final_model -o levels.png
      embernet plot levels spark -o levels.svg
    """
    from embernet.plots.figure import require_picture_name
    from embernet.plots.levels import plot_levels

    require_picture_name(output)
    with spinner("counting", quiet):
        _write(plot_levels(model), output)


def answer(
    image: Annotated[str, typer.Argument(metavar="IMAGE", help="Image file; '-' reads it from stdin.")],
    question: Annotated[str, typer.Argument(metavar="QUESTION", help="What to ask about it.")],
    output: OutputOption,
    model: Annotated[
        str | None, typer.Option("-m", "--model", help="Checkpoint or bundle. Default: the built-in 'spark'.")
    ] = None,
    tokenizer: Annotated[
        str | None, typer.Option("--tokenizer", help="tokenizer.json of a checkpoint that has none.")
    ] = None,
    quiet: QuietOption = False,
) -> None:
    """Draw one answer: the experts of each of its tokens, and, of a checkpoint, where attention went.

    \b
    Examples:
      embernet plot answer scene.png "what shape is red?" -o answer.png
      embernet plot answer scene.png "what shape is red?" -m checkpoint -o answer.png
    """
    from embernet.plots.answer import plot_answer
    from embernet.plots.figure import require_picture_name

    require_picture_name(output)
    chosen = choose_model(model, quiet)
    with spinner("asking", quiet):
        _write(plot_answer(chosen, sys.stdin.buffer if image == STDIN else image, question, tokenizer), output)


def _write(figure: "Figure", output: Path) -> None:
    from embernet.plots.figure import save_figure

    save_figure(figure, output)
    typer.echo(str(output))
