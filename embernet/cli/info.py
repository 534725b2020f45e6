"""`embernet info`: what a checkpoint or a bundle holds."""

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import typer

from embernet.cli.options import JsonOption, QuietOption
from embernet.cli.output import format_bytes, note, print_json, print_rows, progress


def info(
    model: Annotated[
        str | None,
        typer.Argument(metavar="MODEL", help="Checkpoint (file or directory) or bundle (directory or name)."),
    ] = None,
    cpu: Annotated[bool, typer.Option("--cpu", help="Show which kernels this CPU runs instead.")] = False,
    config: Annotated[Path | None, typer.Option("--config", help="Configuration of a checkpoint without one.")] = None,
    heads: Annotated[int | None, typer.Option("--heads", min=1, help="Attention heads of the decoder.")] = None,
    vision_heads: Annotated[
        int | None, typer.Option("--vision-heads", min=1, help="Attention heads of the vision tower.")
    ] = None,
    json: JsonOption = False,
    quiet: QuietOption = False,
) -> None:
    """Show exact parameter counts, quantizer levels and bytes of a checkpoint or a bundle.

    \b
    Examples:
      embernet info spark
      embernet info checkpoint.pt --config config.json --json
      embernet info --cpu
    """
    if cpu == (model is not None):
        raise typer.BadParameter("give a MODEL or --cpu")
    if model is None:
        _print_cpu(json)
        return
    values = model_facts(model, quiet, config, heads, vision_heads)
    if json:
        print_json("embernet.info/1", values)
    else:
        _print(values)


def model_facts(
    model: str, quiet: bool, config: Path | None = None, heads: int | None = None, vision_heads: int | None = None
) -> dict[str, Any]:
    """What a checkpoint or a bundle holds, JSON-ready."""
    from embernet.runtime.bundle import MANIFEST_FILE, find_bundle

    path = Path(model)
    is_bundle = (path / MANIFEST_FILE).is_file() or not path.exists()
    return _bundle(find_bundle(model)) if is_bundle else _checkpoint(path, config, heads, vision_heads, quiet)


def _print_cpu(json: bool) -> None:
    from embernet.runtime.native_library import find_library, isa_in_use, supported_isas

    library, used, supported = find_library(), isa_in_use(), supported_isas()
    if json:
        values = {"library": None if library is None else str(library), "isa": used, "supported_isas": supported}
        print_json("embernet.cpu/1", values)
    else:
        print_rows([("kernels", used), ("supported", ", ".join(supported) or "none"), ("library", str(library))])


def _bundle(path: Path) -> dict[str, Any]:
    from embernet.runtime.bundle import open_bundle

    bundle = open_bundle(path)
    m = bundle.manifest
    return {
        "kind": "bundle",
        "path": str(bundle.path),
        "name": m.name,
        "family": m.family,
        "sha256": bundle.sha256(),
        "parameters": dict(m.parameters),
        "quantizer": dict(m.quantizer),
        "bytes": dict(m.bytes_by_kind) | {"total": bundle.size()},
        "precision": dict(m.precision),
        "config": dict(m.config),
        "provenance": dict(m.provenance),
    }


def _checkpoint(
    path: Path, config: Path | None, heads: int | None, vision_heads: int | None, quiet: bool
) -> dict[str, Any]:
    from embernet.checkpoints import Overrides, open_checkpoint
    from embernet.export.levels import checkpoint_levels

    checkpoint = open_checkpoint(path, config, Overrides(num_attention_heads=heads, vision_num_heads=vision_heads))
    for warning in checkpoint.warnings:
        note(warning, quiet)
    shapes = {name: checkpoint.tensors.shape(name) for name in checkpoint.tensors}
    counts = checkpoint.family.part("parameters")(checkpoint.config, shapes)
    with progress("reading", counts.ternary, quiet) as advance:
        levels = checkpoint_levels(checkpoint, advance)
    c = checkpoint.config
    files = [path] if path.is_file() else [p for p in path.iterdir() if p.is_file()]
    return {
        "kind": "checkpoint",
        "path": str(path),
        "name": path.name,
        "family": checkpoint.family.name,
        "sha256": None,
        "parameters": counts.to_dict(),
        "quantizer": {"weights": c.weight_quantizer, "activation_bits": c.activation_bits, "levels": levels},
        "bytes": {"total": sum(p.stat().st_size for p in files)},
        "precision": None,
        "config": c.to_dict(),
        "provenance": dict(checkpoint.metadata),
    }


def _print(values: Mapping[str, Any]) -> None:
    p, q = values["parameters"], values["quantizer"]
    levels = q.get("levels", {})
    weights = max(sum(levels.values()), 1)
    sizes = ", ".join(f"{kind} {format_bytes(size)}" for kind, size in values["bytes"].items())
    typer.echo(f"{values['path']}: {values['kind']} of the {values['family']} family")
    rows = [("parameters", f"{p['total']:,} ({p['ternary']:,} ternary, {p['active']:,} active per token)")]
    rows += [(f"  {part}", f"{count:,}") for part, count in p["parts"].items()]
    rows += [
        ("quantizer", f"{q['weights']}, {q['activation_bits']}-bit activations"),
        ("levels", ", ".join(f"{name} {count / weights:.2%}" for name, count in levels.items())),
        ("zeros", f"{levels.get('zero', 0):,}"),
        ("size", sizes),
    ]
    print_rows(rows, indent=2)
