"""`embernet data synth`: drawings with captions, questions and answers."""

from pathlib import Path
from typing import Annotated

import typer

from embernet.cli.data import Split
from embernet.cli.options import JsonOption, QuietOption
from embernet.cli.output import print_json, progress


def synth(
    output: Annotated[Path, typer.Option("-o", "--output", help="Folder to write: images/ and conversations.json.")],
    count: Annotated[int, typer.Option("--count", min=1, max=10_000_000, help="How many drawings.")] = 1000,
    split: Annotated[Split, typer.Option("--split", help="Which split; no content is in two of them.")] = Split.train,
    domain: Annotated[
        str | None, typer.Option("--domain", help="One expert's domain ('vision_ocr', ...). Default: all in turn.")
    ] = None,
    seed: Annotated[int, typer.Option("--seed", min=0, help="Seed of the drawings.")] = 0,
    contact_sheet: Annotated[
        Path | None, typer.Option("--contact-sheet", help="PNG file for the first 40 drawings with their texts.")
    ] = None,
    json: JsonOption = False,
    quiet: QuietOption = False,
) -> None:
    """Draw images of eight domains, with captions, questions and answers as a LLaVA JSON.

    The same options always give the same drawings (docs/synth.md shows them).

    \b
    Examples:
      embernet data synth -o drawings --count 2000
      embernet data synth -o charts --split test --domain code_math_chart
      embernet data synth -o drawings --count 40 --contact-sheet sheet.png
    """
    from embernet.data.synth import DOMAINS, SynthDrawings
    from embernet.data.synth.folder import write_contact_sheet, write_folder

    if domain is not None and domain not in DOMAINS:
        raise typer.BadParameter(f"--domain: no such domain (found {domain!r}, expected one of {', '.join(DOMAINS)})")
    drawings = SynthDrawings(split.value, seed, domain)
    with progress("drawing", count, quiet) as advance:
        write_folder(output, drawings, count, advance)
    if contact_sheet is not None:
        write_contact_sheet(contact_sheet, drawings)
    if json:
        print_json(
            "embernet.data.synth/1",
            {
                "path": str(output),
                "split": split.value,
                "domain": domain,
                "seed": seed,
                "count": count,
                "contact_sheet": str(contact_sheet) if contact_sheet else None,
            },
        )
    else:
        typer.echo(f"{output}: {count} drawings of the {split.value} split")
