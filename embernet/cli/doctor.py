"""`embernet doctor`: does this machine have what embernet needs?"""

import textwrap
from collections import Counter
from typing import TYPE_CHECKING

import typer

from embernet.cli.options import JsonOption
from embernet.cli.output import WIDTH, print_json

if TYPE_CHECKING:
    from embernet.device.doctor import Check

_INDENT = " " * 21


def doctor(json: JsonOption = False) -> None:
    """Look at this machine: board, system, engine, kernels, memory, heat, power, camera, disk, extras.

    Each line is ok, a warning (works, but) or a problem (does not work), with what to do about it. Ends with 1 if there
    is a problem, and with 6 on a 32-bit system, where nothing can work.

    \b
    Examples:
      embernet doctor
      embernet doctor --json | jq '.checks[] | select(.status != "ok")'
    """
    from embernet.device.doctor import OK, PROBLEM, SCHEMA, WARNING, require_64_bit, run_checks

    require_64_bit()
    checks = run_checks()
    counts = Counter(check.status for check in checks)
    if json:
        values = {
            "ok": not counts[PROBLEM],
            "warnings": counts[WARNING],
            "problems": counts[PROBLEM],
            "checks": [
                {
                    "name": check.name,
                    "status": check.status,
                    "found": check.found,
                    "hint": check.hint,
                    "values": dict(check.values),
                }
                for check in checks
            ],
        }
        print_json(SCHEMA, values)
    else:
        for check in checks:
            _print(check)
        if counts[OK] == len(checks):
            typer.echo("all is well")
        else:
            typer.echo(f"warnings {counts[WARNING]}, problems {counts[PROBLEM]}")
    if counts[PROBLEM]:
        raise typer.Exit(1)


def _print(check: "Check") -> None:
    """One check, in lines that fit a terminal; what is to be typed stays whole."""
    start = f"{check.status:<8} {check.name:<12}"
    typer.echo(textwrap.fill(check.found, WIDTH, initial_indent=start, subsequent_indent=_INDENT))
    if check.hint:
        typer.echo(f"{_INDENT}try: {check.hint}")
