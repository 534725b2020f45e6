"""Fetches datasets of the registry from the hub and makes them ready to read.

A dataset is made in a hidden folder and renamed, so it exists whole or not at all. Files that had arrived before an
interruption stay in that folder and are not fetched again.
"""

import shutil
import time
import zipfile
import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from embernet.data.folder import IMAGE_SUFFIXES
from embernet.data.llava import record_spans
from embernet.data.prepared import METADATA_FILE, append_run, is_complete, now, run_record, write_json
from embernet.data.registry import DatasetEntry, HubFiles
from embernet.data.sources import IMAGES_FOLDER
from embernet.data.tables import IMAGE_TABLE, Table, open_parquet
from embernet.errors import EmbernetError, NetworkError
from embernet.hub import NotOnHubError, dataset_bytes, download_dataset

# While a dataset is made ready it lies on the disk up to three times: as fetched, mapped, and saved.
_COPIES = 2


@dataclass(frozen=True)
class Download:
    """What became of a dataset. status: "success", "present" (complete before), or "failed" with its error."""

    key: str
    status: str
    metadata: dict[str, Any] | None = None
    error: EmbernetError | None = None


def prepare(
    entries: Sequence[DatasetEntry], folder: Path, force: bool = False, report: Callable[[str], None] = lambda _: None
) -> list[Download]:
    """Fetch datasets into `folder`, one after the other; manifest and index are written even when that is broken off.

    A dataset that is complete is left alone unless `force`. One that the hub does not have, or that turns out to be
    unusable, fails and the others go on; without network all would fail, so the first NetworkError is raised.
    report: takes a line about what is going on.
    """
    folder.mkdir(parents=True, exist_ok=True)
    try:
        with FileLock(folder / ".prepare.lock", timeout=0):
            return _prepare(entries, folder, force, report)
    except Timeout:
        raise EmbernetError(f"{folder}: another embernet is preparing datasets there") from None


def _prepare(
    entries: Sequence[DatasetEntry], folder: Path, force: bool, report: Callable[[str], None]
) -> list[Download]:
    downloads: list[Download] = []
    start, clock = now(), time.monotonic()
    try:
        for entry in entries:
            if is_complete(entry.key, folder) and not force:
                report(f"{entry.key}: complete")
                downloads.append(Download(entry.key, "present"))
                continue
            try:
                downloads.append(Download(entry.key, "success", _fetch(entry, folder, force, report)))
            except OSError as error:
                reason = error.strerror or error
                raise EmbernetError(
                    f"{entry.key}: could not be made ready ({reason}); what was fetched is kept"
                ) from None
            except EmbernetError as error:
                downloads.append(Download(entry.key, "failed", error=error))
                if isinstance(error, NetworkError) and not isinstance(error, NotOnHubError):
                    raise
                report(f"{entry.key}: failed: {error}" + (f"; try: {error.hint}" if error.hint else ""))
    finally:
        records = [_record(download) for download in downloads if download.status != "present"]
        if records:
            append_run(folder, run_record(start, now(), round(time.monotonic() - clock, 1), records))
    return downloads


def _fetch(entry: DatasetEntry, folder: Path, force: bool, report: Callable[[str], None]) -> dict[str, Any]:
    """Fetch one dataset, make it ready, and put it in its place; its metadata."""
    target = folder / entry.key
    if target.exists() and not force:
        raise EmbernetError(f"{target}: exists, but was not prepared here (give --force to replace it)")
    clock = time.monotonic()
    part = folder / f".{entry.key}.part"
    parts = [(files, part / "files" / str(number)) for number, files in enumerate(entry.downloads)]
    parts += [(entry.image_files, part / "image_files")] if entry.image_files else []
    _require_space(folder, entry.key, parts, report)
    for files, place in parts:
        download_dataset(files.repository, files.files, place)
    report(f"{entry.key}: making it ready")
    ready = part / "ready"
    shutil.rmtree(ready, ignore_errors=True)
    counts = _make_ready(entry, part, ready)
    metadata = {
        "dataset_key": entry.key,
        "hf_name": entry.downloads[0].repository,
        "config": entry.config,
        "domain": entry.domain,
        "expert": "Projector (not experts)" if entry.expert is None else f"Expert {entry.expert}: {entry.domain}",
        "stage": entry.stage,
        "priority": entry.priority,
        "description": entry.description,
        "licence": entry.licence,
        "splits": list(counts),
        "num_samples": counts,
        "total_samples": sum(counts.values()),
        "estimated_size_gb": entry.size_gb,
        "download_time_seconds": round(time.monotonic() - clock, 1),
        "save_path": str(target),
        "download_timestamp": now(),
    }
    write_json(ready / METADATA_FILE, metadata)
    if target.exists():
        old = part / "replaced"
        shutil.rmtree(old, ignore_errors=True)
        target.replace(old)
    ready.replace(target)
    shutil.rmtree(part)
    report(f"{entry.key}: {metadata['total_samples']:,} samples")
    if entry.separate_images:
        report(f"{entry.key}: its images are not part of it; they belong into {folder / IMAGES_FOLDER}")
    return metadata


def _require_space(
    folder: Path, key: str, parts: Sequence[tuple[HubFiles, Path]], report: Callable[[str], None]
) -> None:
    missing = total = 0
    for files, place in parts:
        part_missing, part_total = dataset_bytes(files.repository, files.files, place)
        missing, total = missing + part_missing, total + part_total
    needed, free = missing + _COPIES * total, shutil.disk_usage(folder).free
    report(f"{key}: {missing / 1e6:,.1f} MB to fetch of {total / 1e6:,.1f} MB")
    if needed > free:
        raise EmbernetError(
            f"{key}: does not fit on the disk (needs {needed / 1e9:.1f} GB while it is made ready, "
            f"{free / 1e9:.1f} GB are free)"
        )


def _make_ready(entry: DatasetEntry, part: Path, ready: Path) -> dict[str, int]:
    """Turn what was fetched into what is read; how many samples each split has."""
    if tables := sorted((part / "files").rglob("*.parquet")):
        import datasets

        splits = open_parquet(tables, part / "mapped")
        for table in splits.values():
            Table(table, entry.key, entry.domain, columns=entry.columns)  # says so if it has no images
        datasets.DatasetDict(splits).save_to_disk(ready)
        if entry.image_files:
            images = open_parquet(sorted((part / "image_files").rglob("*.parquet")), part / "mapped")
            datasets.concatenate_datasets(list(images.values())).save_to_disk(ready / IMAGE_TABLE)
        return {split: len(table) for split, table in splits.items()}
    ready.mkdir()
    counts = {}
    for file in sorted((part / "files").rglob("*.json*")):
        if not any(folder.startswith(".") for folder in file.relative_to(part).parts):  # the hub client's own
            counts[file.stem if file.suffix == ".jsonl" else "train"] = len(record_spans(file)) // 2
            shutil.copy2(file, ready / file.name)
    for number, files in enumerate(entry.downloads):
        for file in sorted((part / "files" / str(number)).rglob("*.zip")):
            _unpack_images(file, ready / files.unpack_into)
    if not counts:
        raise EmbernetError(f"{entry.key}: what the hub has is neither parquet nor JSON")
    return counts


def _unpack_images(archive: Path, folder: Path) -> None:
    """Unpack the images of a ZIP archive; names that lead out of `folder` lose what would lead there."""
    folder.mkdir(parents=True, exist_ok=True)
    try:
        with zipfile.ZipFile(archive) as file:
            images = [item for item in file.infolist() if Path(item.filename).suffix.lower() in IMAGE_SUFFIXES]
            size, free = sum(item.file_size for item in images), shutil.disk_usage(folder).free
            if size > free:
                raise EmbernetError(
                    f"{archive.name}: does not fit on the disk ({size / 1e9:.1f} GB, {free / 1e9:.1f} free)"
                )
            file.extractall(folder, images)
    except (zipfile.BadZipFile, zlib.error, EOFError, RuntimeError) as error:  # RuntimeError: it wants a password
        archive.unlink()  # so that it is fetched again
        raise EmbernetError(f"{archive.name}: not a whole ZIP archive ({error})") from None


def _record(download: Download) -> dict[str, Any]:
    record: dict[str, Any] = {"dataset_key": download.key, "status": download.status}
    if download.error is not None:
        return record | {"error": str(download.error)}
    return record | {"metadata": download.metadata}
