"""`embernet data prepare` and `embernet data show`: the datasets to train on."""

import shutil
import sys
import textwrap
from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from embernet.cli.options import JsonOption, QuietOption
from embernet.cli.output import format_bytes, note, print_json, progress, spinner
from embernet.json_file import printable

if TYPE_CHECKING:
    from embernet.data.registry import DatasetEntry
    from embernet.data.verification import DatasetReport

_BROKEN_SHOWN = 20


class Split(str, Enum):
    train = "train"
    validation = "validation"
    test = "test"


def prepare(
    ctx: typer.Context,
    names: Annotated[list[str] | None, typer.Argument(metavar="NAME...", help="More names for --dataset.")] = None,
    minimal: Annotated[bool, typer.Option("--minimal", help="Fetch the four datasets to try things with.")] = False,
    critical: Annotated[bool, typer.Option("--critical", help="Fetch what a usable model needs.")] = False,
    recommended: Annotated[bool, typer.Option("--recommended", help="Fetch what a good model needs.")] = False,
    all_: Annotated[bool, typer.Option("--all", envvar="EMBERNET_ALL", help="Fetch everything.")] = False,
    dataset: Annotated[
        list[str] | None, typer.Option("--dataset", metavar="NAME", help="Fetch these; several names may follow.")
    ] = None,
    list_: Annotated[
        bool, typer.Option("--list", envvar="EMBERNET_LIST", help="List the datasets, their sizes and licences.")
    ] = False,
    explain: Annotated[bool, typer.Option("--explain", help="Explain what each dataset trains.")] = False,
    verify: Annotated[
        bool, typer.Option("--verify", help="Read all that was prepared: count samples, open every image.")
    ] = False,
    output_dir: Annotated[Path, typer.Option("-o", "--output-dir", help="Data directory.")] = Path("data"),
    force: Annotated[bool, typer.Option("--force", help="Fetch again what is complete.")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say what would be fetched; needs no network.")] = False,
    json: JsonOption = False,
    quiet: QuietOption = False,
) -> None:
    """Fetch the datasets that EmberNet is trained on, or look at what is there.

    What is complete is not fetched again; neither are the files that had arrived when a run was broken off.

    \b
    Examples:
      embernet data prepare --list
      embernet data prepare --minimal --dry-run
      embernet data prepare --dataset textvqa chartqa -o ./data
      embernet data prepare --verify
    """
    dataset = [*(dataset or []), *(names or [])] if dataset else []
    groups = {"minimal": minimal, "critical": critical, "recommended": recommended, "all": all_}
    actions = [name for name, wanted in groups.items() if wanted]
    others = {"dataset": dataset, "list": list_, "explain": explain, "verify": verify}
    actions += [name for name, wanted in others.items() if wanted]
    if names and not dataset:
        raise typer.BadParameter(f"{names[0]}: a name without --dataset")
    if not actions:
        typer.echo(ctx.get_help())
        raise typer.Exit(1)
    if len(actions) > 1:
        raise typer.BadParameter(f"choose one of {' and '.join(f'--{name}' for name in actions)}")
    from embernet.data.registry import find_dataset, group

    if list_:
        _list(json)
    elif explain:
        _explain()
    elif verify:
        _verify(output_dir, json, quiet)
    else:
        entries = [find_dataset(name) for name in dataset] if dataset else group(actions[0])
        if dry_run:
            _plan(entries, actions[0], output_dir, force, json)
        else:
            _fetch(entries, actions[0], output_dir, force, json, quiet)


def show(
    path: Annotated[Path, typer.Argument(metavar="PATH", help="Dataset: a file or a folder.")],
    split: Annotated[Split, typer.Option("--split", help="Which part of it.")] = Split.train,
    count: Annotated[int, typer.Option("-n", "--count", min=1, help="How many examples.")] = 3,
    json: JsonOption = False,
) -> None:
    """Show the first examples of a dataset as training would see them.

    \b
    Examples:
      embernet data show photos/
      embernet data show llava_instruct_150k.json -n 10
      embernet data show data/textvqa --split validation --json
    """
    from embernet.data.example import GENERAL
    from embernet.data.loading import LoadedExample, load_example
    from embernet.data.registry import DATASETS
    from embernet.data.sources import open_source

    entry = DATASETS.get(path.name)
    with spinner("reading"):
        source = open_source(path, split.value, domain=entry.domain if entry else GENERAL, entry=entry)
    loaded = (load_example(source, index) for index in range(min(count, len(source))))  # an image at a time
    if json:
        examples = [_example(item) if isinstance(item, LoadedExample) else vars(item) for item in loaded]
        print_json(
            "embernet.examples/1", {"path": str(path), "split": split.value, "count": len(source), "examples": examples}
        )
        return
    typer.echo(f"{path}: {len(source):,} examples")
    for item in loaded:
        if not isinstance(item, LoadedExample):
            typer.echo(printable(f"skipped: {item.reason}"))
            continue
        size = "no image" if item.image is None else f"{item.image.width} x {item.image.height}"
        typer.echo(printable(f"{item.example.id}  {size}  {item.example.domain}"))
        for prompt, answer in item.example.turns:
            for mark, text in ((">", prompt), (" ", answer)):
                typer.echo(textwrap.indent(text, f"  {mark} "))


def _list(json: bool) -> None:
    from embernet.data.registry import DATASETS, GROUPS, group, total_size_gb

    if json:
        groups = {
            name: {"datasets": [entry.key for entry in group(name)], "size_gb": total_size_gb(group(name))}
            for name in GROUPS
        }
        print_json(
            "embernet.datasets/1", {"datasets": [_entry(entry) for entry in DATASETS.values()], "groups": groups}
        )
        return
    for stage in (1, 2):
        typer.echo(f"Stage {stage}")
        for entry in DATASETS.values():
            if entry.stage == stage:
                typer.echo(
                    f"  {entry.key:<20} {entry.domain:<18} {entry.samples:>11,} {entry.size_gb:>6g} GB  "
                    f"{entry.priority:<11}  {entry.licence}{_remark(entry)}"
                )
    typer.echo("Groups")
    for name in GROUPS:
        typer.echo(f"  --{name:<12} {len(group(name)):>3} datasets {total_size_gb(group(name)):>6g} GB")
    typer.echo(
        "Samples and sizes are the published ones; the real size is asked of the hub before anything is fetched."
    )


def _explain() -> None:
    from embernet.data.domains import DOMAINS
    from embernet.data.registry import DATASETS

    typer.echo(
        "Stage 1 (alignment) teaches the projector what the image encoder sees; no expert is trained:\n"
        + _described(entry for entry in DATASETS.values() if entry.stage == 1)
        + "\nStage 2 teaches the experts. The router sends each token to two of them; the shared expert sees all.\n"
        "A dataset is for the expert of its domain:"
    )
    for name, domain in DOMAINS.items():
        entries = [entry for entry in DATASETS.values() if entry.stage == 2 and entry.domain == name]
        if entries:
            share = f"{domain.curriculum_share:.0%} of the draws with the curriculum, {domain.plain_share:.0%} without"
            typer.echo(f"Expert {domain.expert}, {name} ({domain.tag}): {share}\n{_described(entries)}")


def _described(entries: Any) -> str:
    return "\n".join(f"  {entry.key:<20} {entry.description}" for entry in entries)


def _verify(folder: Path, json: bool, quiet: bool) -> None:
    from embernet.data.prepared import prepared_datasets
    from embernet.data.verification import verify_dataset
    from embernet.errors import InputError

    found = prepared_datasets(folder) if folder.is_dir() else []
    if not found:
        raise InputError(f"{folder}: holds no prepared datasets", hint="embernet data prepare --list")
    reports = []
    for dataset in found:
        total = dataset.metadata.get("total_samples")
        with progress(dataset.key, total if isinstance(total, int) else 0, quiet) as advance:
            reports.append(verify_dataset(dataset, folder, advance))
        if not json:
            _print_report(reports[-1])
    if json:
        ok = all(report.ok for report in reports)
        print_json("embernet.data_verify/1", {"ok": ok, "datasets": [report.to_dict() for report in reports]})
    if not all(report.ok for report in reports):
        raise typer.Exit(1)


def _print_report(report: "DatasetReport") -> None:
    if report.error is not None:
        typer.echo(f"{report.key}: {report.error}")
        return
    sizes = f" from {_size(report.smallest)} to {_size(report.largest)}" if report.smallest and report.largest else ""
    counted = f"{report.samples:,} samples, {report.images:,} images{sizes}, {report.texts:,} without"
    typer.echo(f"{report.key}: {'ok' if report.ok else 'not ok'} ({counted})")
    if report.expected not in (None, report.samples):
        typer.echo(f"  its metadata says {report.expected:,} samples")
    broken = report.skipped.listed()
    for skipped in broken[:_BROKEN_SHOWN]:
        typer.echo(printable(f"  {skipped.source} {skipped.index}: {skipped.reason}"))
    if len(broken) > _BROKEN_SHOWN:
        typer.echo(f"  and {len(broken) - _BROKEN_SHOWN:,} more (--json lists all)")


def _size(size: tuple[int, int]) -> str:
    return f"{size[0]} x {size[1]}"


def _plan(entries: "list[DatasetEntry]", mode: str, folder: Path, force: bool, json: bool) -> None:
    from embernet.data.prepared import is_complete
    from embernet.data.registry import total_size_gb

    complete = {entry.key for entry in entries if is_complete(entry.key, folder) and not force}
    missing = [entry for entry in entries if entry.key not in complete]
    place = folder.absolute()
    free = shutil.disk_usage(next(parent for parent in (place, *place.parents) if parent.is_dir())).free
    if json:
        planned = [_entry(entry) | {"complete": entry.key in complete} for entry in entries]
        values = {"mode": mode, "path": str(folder), "missing_gb": total_size_gb(missing), "free_bytes": free}
        print_json("embernet.data_plan/1", values | {"datasets": planned})
        return
    for entry in entries:
        state = "complete" if entry.key in complete else "to fetch"
        repositories = ", ".join(files.repository for files in entry.downloads)
        typer.echo(f"{entry.key:<20} {entry.size_gb:>6g} GB  {state}  {repositories}{_remark(entry)}")
    typer.echo(f"{len(missing)} to fetch, {total_size_gb(missing):g} GB as published; {format_bytes(free)} free")


def _fetch(entries: "list[DatasetEntry]", mode: str, folder: Path, force: bool, json: bool, quiet: bool) -> None:
    from embernet.data.preparing import prepare as prepare_datasets

    if quiet or not sys.stderr.isatty():
        from huggingface_hub.utils import disable_progress_bars

        disable_progress_bars()
    downloads = prepare_datasets(entries, folder, force, lambda line: note(line, quiet))
    failed = [download for download in downloads if download.error is not None]
    if json:
        values = {
            "mode": mode,
            "path": str(folder),
            "downloads": [
                {
                    "dataset_key": download.key,
                    "status": download.status,
                    "metadata": download.metadata,
                    "error": None if download.error is None else str(download.error),
                }
                for download in downloads
            ],
        }
        print_json("embernet.data_prepare/1", values)
    else:
        for download in downloads:
            typer.echo(f"{download.key}: {download.status}" + (f" ({download.error})" if download.error else ""))
    if failed:
        raise typer.Exit(1)


def _entry(entry: "DatasetEntry") -> dict[str, Any]:
    return {
        "key": entry.key,
        "hub_id": entry.hub_id,
        "alternate_id": entry.alternate_id,
        "config": entry.config,
        "stage": entry.stage,
        "domain": entry.domain,
        "expert": entry.expert,
        "samples": entry.samples,
        "size_gb": entry.size_gb,
        "priority": entry.priority,
        "licence": entry.licence,
        "description": entry.description,
        "separate_images": entry.separate_images,
        "dropped": entry.dropped,
        "added": entry.added,
    }


def _remark(entry: "DatasetEntry") -> str:
    remarks = ["its images are elsewhere"] if entry.separate_images else []
    remarks += ["left out by later releases"] if entry.dropped else []
    return f"  ({', '.join(remarks)})" if remarks else ""


def _example(loaded: Any) -> dict[str, Any]:
    example, image = loaded.example, loaded.image
    return {
        "id": example.id,
        "width": None if image is None else image.width,
        "height": None if image is None else image.height,
        "turns": [{"prompt": prompt, "answer": answer} for prompt, answer in example.turns],
        "domain": example.domain,
        "references": list(example.references),
    }
