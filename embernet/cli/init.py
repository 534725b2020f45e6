"""`embernet init`: a new model with random weights."""

from pathlib import Path
from typing import Annotated

import typer

from embernet.cli.options import JsonOption, QuietOption
from embernet.cli.output import print_json, progress


def init(
    preset: Annotated[
        str, typer.Argument(metavar="PRESET", help="Which model: a preset ('spark', 'embernet'), or a config.json.")
    ],
    output: Annotated[Path, typer.Option("-o", "--output", help="Checkpoint directory to write.")],
    seed: Annotated[int, typer.Option("--seed", min=0, help="Seed of the random weights.")] = 0,
    json: JsonOption = False,
    quiet: QuietOption = False,
) -> None:
    """Write a new checkpoint with random weights, piece by piece: the full size needs little memory.

    \b
    Examples:
      embernet init spark -o new-spark
      embernet init embernet -o full-size --seed 1
    """
    from embernet.families import find_preset
    from embernet.initial import write_initial_checkpoint

    family, config = find_preset(preset)
    shapes = family.part("model").tensor_shapes(config)
    counts = family.part("parameters")(config, shapes)
    with progress("writing", counts.total, quiet) as advance:
        write_initial_checkpoint(output, family, config, seed, advance)
    if json:
        values = {"path": str(output), "family": family.name, "seed": seed, "parameters": counts.to_dict()}
        print_json("embernet.init/1", values)
    else:
        typer.echo(f"{output}: {counts.total:,} parameters")
