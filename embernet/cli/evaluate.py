"""`embernet eval`: how often a model is right."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

from embernet.cli.data import Split
from embernet.cli.options import JsonOption, QuietOption
from embernet.cli.output import note, print_json, progress, spinner

_SKIPPED_SHOWN = 20


def evaluate(
    data: Annotated[
        str,
        typer.Option(
            "--data",
            help="Dataset, data directory, or 'synth' (the drawings of `data synth`).",
        ),
    ],
    model: Annotated[
        str | None,
        typer.Argument(metavar="MODEL", help="Checkpoint or bundle. Default: the built-in 'spark'."),
    ] = None,
    split: Annotated[Split, typer.Option("--split", help="Which split.")] = Split.test,
    domain: Annotated[
        list[str] | None, typer.Option("--domain", help="Only this domain ('vision_ocr', ...); repeatable.")
    ] = None,
    count: Annotated[
        int | None, typer.Option("--count", min=1, help="Images of each dataset. Default: all; 1000 drawings.")
    ] = None,
    against: Annotated[
        str | None, typer.Option("--against", help="Another checkpoint or bundle, asked the same and compared.")
    ] = None,
    tokenizer: Annotated[
        str | None, typer.Option("--tokenizer", help="tokenizer.json of checkpoints that have none.")
    ] = None,
    batch_size: Annotated[int, typer.Option("--batch-size", min=1, help="Images that a checkpoint sees at once.")] = 32,
    output: Annotated[Path | None, typer.Option("-o", "--output", help="JSON file for the whole report.")] = None,
    json: JsonOption = False,
    quiet: QuietOption = False,
) -> None:
    """Ask a model questions whose answers are known, and count which are right, domain by domain.

    docs/evaluation.md says what is counted.

    \b
    Examples:
      embernet eval --data synth
      embernet eval my.ember --data data --split validation --count 500 -o eval.json
      embernet eval checkpoint --against my.ember --data synth --domain vision_ocr --json
    """
    from embernet.checkpoints import require_writable
    from embernet.data.prepared import write_json
    from embernet.evaluation.answering import open_answerer
    from embernet.evaluation.evaluate import SCHEMA
    from embernet.evaluation.evaluate import evaluate as run
    from embernet.evaluation.samples import open_samples
    from embernet.runtime.bundle import DEFAULT_MODEL

    if output is not None:
        require_writable(output)
    if model is None:
        note(f"evaluating the built-in model {DEFAULT_MODEL!r}", quiet)
    with spinner("opening the data and the models", quiet):
        sources = open_samples(data, split.value, domain or [], count)
        first = open_answerer(model or DEFAULT_MODEL, tokenizer, batch_size)
        second = open_answerer(against, tokenizer, batch_size) if against else None
    with progress("asking", sum(map(len, sources)), quiet) as advance:
        report = run(first, sources, against=second, batch_size=batch_size, progress=advance)
    values = {"data": {"name": data, "split": split.value, "domains": domain, "count": count}} | report
    if output is not None:
        write_json(output, {"schema": SCHEMA} | values)
    if json:
        print_json(SCHEMA, values)
    else:
        _print(values)
    for skipped in report["skipped"][:_SKIPPED_SHOWN]:
        note(f"skipped: {skipped['reason']}", quiet)
    if len(report["skipped"]) > _SKIPPED_SHOWN:
        note(f"skipped: {len(report['skipped'])} examples in all (--json lists them)", quiet)


def _print(report: Mapping[str, Any]) -> None:
    total, data = report["total"], report["data"]
    typer.echo(
        f"{report['model']['path']}: {total['count']:,} questions about {report['num_samples']:,} images "
        f"({data['name']}, {data['split']})"
    )
    _print_scores(report)
    _print_routing(report["routing"])
    if report["against"] is not None:
        typer.echo(f"\n{report['against']['model']['path']}: the same questions")
        _print_scores(report["against"])
        _print_routing(report["against"]["routing"])
        _print_comparison(report["against"]["comparison"])


def _print_scores(result: Mapping[str, Any]) -> None:
    named = [("all", result["total"]), *result["domains"].items()]
    named += [(f"  {kind}", score) for kind, score in result["kinds"].items()]
    rows: list[tuple[str, ...]] = [("exact match", "accuracy", "95 % interval", "without the image", "answers")]
    for name, score in named:
        low, high = score["accuracy_interval"]
        blind = score["accuracy_without_image"]
        shares = (f"{score['accuracy']:.3f}", f"{low:.3f} to {high:.3f}", "-" if blind is None else f"{blind:.3f}")
        rows.append((name, *shares, f"{score['count']:,}"))
    _print_table(rows)
    if result["total"]["vqa_count"]:
        rows = [("VQA accuracy", "accuracy", "95 % interval", "answers")]
        for name, score in named:
            if score["vqa_count"]:
                low, high = score["vqa_interval"]
                share = f"{score['vqa_accuracy']:.3f}"
                rows.append((name, share, f"{low:.3f} to {high:.3f}", f"{score['vqa_count']:,}"))
        _print_table(rows)
    if result["unanswered"]:
        typer.echo(f"  questions that could not be taken, counted as wrong: {len(result['unanswered'])}")


def _print_routing(routing: Mapping[str, Any]) -> None:
    from embernet.evaluation.routing import routing_rows

    if not routing["counts"]:
        return
    rows = [("experts in the last layer", *routing["domains"])]
    rows += [(expert, *(f"{share:.3f}" for share in shares)) for expert, shares in routing_rows(routing)]
    _print_table(rows)
    bits = ", ".join(f"{value:.3f}" for value in routing["mutual_information_bits"])
    typer.echo(
        f"  mutual information of domain and expert, by layer: {bits} bits of {routing['domain_entropy_bits']:.3f}"
    )
    for layer, dead in enumerate(routing["dead_experts"]):
        if dead:
            typer.echo(f"  never chosen in layer {layer}: {', '.join(dead)}")


def _print_comparison(comparison: Mapping[str, Any]) -> None:
    rows = [("first minus second", "difference", "only first right", "only second right", "p")]
    for name, values in [("all", comparison["total"]), *comparison["domains"].items()]:
        parted = (str(values["only_first_right"]), str(values["only_second_right"]))
        rows.append((name, f"{values['difference']:+.4f}", *parted, f"{values['p']:.3g}"))
    typer.echo("")
    _print_table(rows)
    typer.echo(f"  p: {comparison['test']}")


def _print_table(rows: Sequence[tuple[str, ...]]) -> None:
    """Aligned columns, the first to the left."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for first, *others in rows:
        cells = [f"{cell:>{width}}" for cell, width in zip(others, widths[1:], strict=True)]
        typer.echo("  ".join(["", f"{first:<{widths[0]}}", *cells]).rstrip())
