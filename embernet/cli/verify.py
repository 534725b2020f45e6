"""`embernet verify`: is a bundle whole?"""

from typing import Annotated

import typer

from embernet.cli.options import JsonOption, QuietOption
from embernet.cli.output import format_bytes, print_json, progress


def verify(
    bundle: Annotated[str, typer.Argument(metavar="BUNDLE", help="Bundle: a directory or a name.")],
    json: JsonOption = False,
    quiet: QuietOption = False,
) -> None:
    """Read a whole bundle and compare every file with the manifest's sha256.

    \b
    Examples:
      embernet verify model.ember
      embernet verify spark --json
    """
    from embernet.runtime.bundle import open_bundle

    opened = open_bundle(bundle)
    with progress("verifying", opened.size(), quiet) as advance:
        opened.verify(advance)
    files = len(opened.manifest.files)
    if json:
        values = {
            "path": str(opened.path),
            "ok": True,
            "files": files,
            "bytes": opened.size(),
            "sha256": opened.sha256(),
        }
        print_json("embernet.verify/1", values)
    else:
        typer.echo(f"{opened.path}: ok ({files} files, {format_bytes(opened.size())})")
