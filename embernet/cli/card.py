"""`embernet card`: a model card from what was measured."""

from pathlib import Path
from typing import Annotated

import typer

from embernet.cli.info import model_facts
from embernet.cli.options import QuietOption


def card(
    model: Annotated[str, typer.Argument(metavar="MODEL", help="Checkpoint or bundle.")],
    report: Annotated[
        Path, typer.Option("--eval", help="What `embernet eval -o` wrote about it, or about it and another.")
    ],
    output: Annotated[Path, typer.Option("-o", "--output", help="Markdown file to write, README.md.")],
    run: Annotated[
        Path | None,
        typer.Option("--run", help="Checkpoint of the run it comes from. Default: MODEL, if it is one of a run."),
    ] = None,
    limits: Annotated[
        Path | None, typer.Option("--limits", help="Markdown file that says in plain words what it cannot do.")
    ] = None,
    license_id: Annotated[str | None, typer.Option("--license", help="The hub's name of its licence: mit, ...")] = None,
    quiet: QuietOption = False,
) -> None:
    """Write a model card: what a model is, how often it is right, which experts answer what, and its limits.

    \b
    Examples:
      embernet card my.ember --eval eval.json -o README.md --license mit
      embernet card checkpoints/stage2/final_model --eval eval.json --limits limits.md -o README.md
    """
    from embernet.checkpoints import write_text
    from embernet.errors import InputError
    from embernet.evaluation.card import model_card
    from embernet.evaluation.evaluate import read_report
    from embernet.training.run_checkpoint import RUN_FILE, read_run_checkpoint

    values = read_report(report)
    try:
        text = None if limits is None else limits.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{limits}: not readable ({error})") from None
    if run is None and (Path(model) / RUN_FILE).is_file():
        run = Path(model)
    trained = None if run is None else read_run_checkpoint(run)
    write_text(output, model_card(model_facts(model, quiet), values, trained, text, license_id))
    typer.echo(str(output))
