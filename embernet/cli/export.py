"""`embernet export`: from a checkpoint to a bundle."""

from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from embernet.cli.options import JsonOption, QuietOption
from embernet.cli.output import format_bytes, note, print_json, print_rows, progress

if TYPE_CHECKING:
    from embernet.export.bundle import ExportReport
    from embernet.export.check import CheckCase, CheckReport


class Target(str, Enum):
    onnx = "onnx"


class Precision(str, Enum):
    int8 = "int8"
    float32 = "float32"


class WeightQuantizer(str, Enum):
    absmean = "absmean"
    sign_mean = "sign_mean"


def export(
    checkpoint: Annotated[Path, typer.Argument(metavar="CHECKPOINT", help="Checkpoint file or directory.")],
    output: Annotated[Path, typer.Option("-o", "--output", help="Bundle to write, NAME.ember.")],
    target: Annotated[Target, typer.Option("--target", help="What the bundle is for.")] = Target.onnx,
    config: Annotated[
        Path | None, typer.Option("--config", help="JSON configuration, where the checkpoint has none.")
    ] = None,
    heads: Annotated[int | None, typer.Option("--heads", min=1, help="Attention heads of the decoder.")] = None,
    vision_heads: Annotated[
        int | None, typer.Option("--vision-heads", min=1, help="Attention heads of the vision tower.")
    ] = None,
    weight_quantizer: Annotated[
        WeightQuantizer | None, typer.Option("--weight-quantizer", help="Quantizer the weights were trained with.")
    ] = None,
    activation_bits: Annotated[
        int | None, typer.Option("--activation-bits", help="8 or 4: what the weights were trained with.")
    ] = None,
    vision: Annotated[Precision, typer.Option("--vision", help="Precision of the vision tower.")] = Precision.int8,
    embedding: Annotated[
        Precision, typer.Option("--embedding", help="Precision of the embedding and the head.")
    ] = Precision.int8,
    tokenizer: Annotated[
        str | None, typer.Option("--tokenizer", help="tokenizer.json, its folder, or a hub repository user/repo.")
    ] = None,
    name: Annotated[str | None, typer.Option("--name", help="Name of the model. Default: the bundle's.")] = None,
    check: Annotated[
        bool, typer.Option("--check", help="Run bundle and checkpoint on the same inputs; a mismatch fails the export.")
    ] = False,
    check_image: Annotated[
        list[Path] | None, typer.Option("--check-image", help="Check on this image (repeatable), not on random ones.")
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Replace the bundle if it exists.")] = False,
    json: JsonOption = False,
    quiet: QuietOption = False,
) -> None:
    """Export a checkpoint as a bundle that runs without torch.

    \b
    Examples:
      embernet export checkpoint/ -o model.ember
      embernet export pytorch_model.bin -o trial.ember --tokenizer TinyLlama/TinyLlama-1.1B-Chat-v1.0 --check
      embernet export epoch_3.pt -o tiny.ember --config config.json --vision float32
    """
    from embernet.checkpoints import Overrides, open_checkpoint
    from embernet.export.bundle import ExportOptions, export_bundle

    overrides = Overrides(
        num_attention_heads=heads,
        vision_num_heads=vision_heads,
        weight_quantizer=weight_quantizer.value if weight_quantizer else None,
        activation_bits=activation_bits,
    )
    opened = open_checkpoint(checkpoint, config, overrides)
    options = ExportOptions(vision.value, embedding.value, tokenizer, name, force)
    checked: list[CheckReport] = []

    def run_check(bundle: Path) -> None:
        from embernet.export.check import check_bundle, require_passed

        report = check_bundle(bundle, opened, check_image or (), on_case=lambda case: _print_case(case, quiet))
        checked.append(report)
        require_passed(report)

    total = sum(opened.tensors.size(tensor) for tensor in opened.tensors)
    with progress("exporting", total, quiet) as advance:
        inspect = run_check if check or check_image else None
        report = export_bundle(opened, output, options, advance, inspect)
    for warning in report.warnings:
        note(warning, quiet)
    if json:
        values = {"target": target.value} | report.to_dict()
        print_json("embernet.export/1", values | {"check": checked[0].to_dict() if checked else None})
    else:
        _print_report(report)


def _print_case(case: "CheckCase", quiet: bool) -> None:
    note(
        f"check {case.image}: max difference {case.max_difference:.3g}, cosine {case.cosine:.6f}, "
        f"greedy agreement {case.greedy_agreement:.1%}, expert agreement {case.expert_agreement:.1%}",
        quiet,
    )


def _print_report(report: "ExportReport") -> None:
    kinds, p = report.bytes_by_kind, report.parameters
    other = report.total_bytes - sum(kinds.values())
    typer.echo(f"{report.path}: {format_bytes(report.total_bytes)}")
    print_rows(
        [
            ("ternary", f"{format_bytes(kinds['ternary'])}  {report.bits_per_ternary_weight:.2f} bits per weight"),
            ("int8", format_bytes(kinds["int8"])),
            ("float32", format_bytes(kinds["float"])),
            ("graphs and text", format_bytes(other)),
            ("parameters", f"{p.total:,} ({p.ternary:,} ternary, {p.active:,} active per token)"),
            ("bits per parameter", f"{8 * report.total_bytes / p.total:.2f}"),
        ],
        indent=2,
    )
