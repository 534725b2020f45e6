"""The files beside prepared datasets: metadata.json of each, dataset_index.json, download_manifest.json.

Two generations were published; both are read. What is written is the first: the manifest is a list of runs that only
grows, and the index is made anew from the datasets' own metadata.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from embernet.checkpoints import write_text
from embernet.data.domains import DOMAINS
from embernet.data.example import GENERAL
from embernet.data.registry import DATASETS
from embernet.json_file import printable, read_json_object

METADATA_FILE = "metadata.json"
INDEX_FILE = "dataset_index.json"
MANIFEST_FILE = "download_manifest.json"
_RUNS = "runs"


@dataclass(frozen=True)
class PreparedDataset:
    """A dataset on disk. metadata: what its metadata.json and the index say of it, of either generation."""

    key: str
    path: Path
    stage: int
    domain: str
    metadata: Mapping[str, Any]


def is_complete(key: str, folder: Path) -> bool:
    """Whether a dataset lies in a data directory; half of one never does."""
    return (folder / key / METADATA_FILE).is_file()


def prepared_datasets(folder: Path) -> list[PreparedDataset]:
    """The datasets that lie in a data directory, in the registry's order; none if it is not one."""
    found: dict[str, dict[str, Any]] = {}
    if (folder / INDEX_FILE).is_file():
        listed = read_json_object(folder / INDEX_FILE).get("datasets")
        for key, values in (listed if isinstance(listed, dict) else {}).items():
            found[key] = values if isinstance(values, dict) else {}
    for file in sorted(folder.glob(f"[!.]*/{METADATA_FILE}")):
        key = file.parent.name
        values = read_json_object(file)
        if "dataset_key" in values or key in found or key in DATASETS:
            found[key] = found.get(key, {}) | values
    datasets = []
    for key, values in found.items():
        path = _place(folder, key, values)
        if path is not None:
            entry = DATASETS.get(key)
            stage = values.get("stage", entry.stage if entry else 2)
            domain = values.get("domain", entry.domain if entry else GENERAL)
            datasets.append(
                PreparedDataset(
                    key,
                    path,
                    stage if stage in (1, 2) else 2,
                    domain if isinstance(domain, str) and domain in DOMAINS else GENERAL,
                    values,
                )
            )
    order = list(DATASETS)
    return sorted(datasets, key=lambda dataset: order.index(dataset.key) if dataset.key in order else len(order))


def read_runs(folder: Path) -> list[dict[str, Any]]:
    """The download runs of a data directory, the oldest first; the second generation kept only the last."""
    path = folder / MANIFEST_FILE
    if not path.is_file():
        return []
    values = read_json_object(path)
    for listed in values.values():
        if isinstance(listed, list) and listed and all(isinstance(run, dict) and "downloads" in run for run in listed):
            return listed
    if "download_timestamp" not in values:
        return []
    time = values["download_timestamp"]
    statuses = [("success", key) for key in _texts(values.get("successful"))]
    statuses += [("failed", key) for key in _texts(values.get("failed"))]
    return [run_record(time, time, None, [{"dataset_key": key, "status": status} for status, key in statuses])]


def run_record(start: str, end: str, seconds: float | None, downloads: list[dict[str, Any]]) -> dict[str, Any]:
    """One download run as the manifest keeps it; each download has dataset_key, status, and metadata or error."""
    failed = sum(download["status"] == "failed" for download in downloads)
    return {
        "start_time": start,
        "end_time": end,
        "total_time_seconds": seconds,
        "successful_downloads": len(downloads) - failed,
        "failed_downloads": failed,
        "downloads": downloads,
    }


def append_run(folder: Path, run: dict[str, Any]) -> None:
    """Add a run to the manifest, and make the index anew."""
    runs = [*read_runs(folder), run]
    write_json(folder / MANIFEST_FILE, {_RUNS: runs, "last_updated": now()})
    index: dict[str, Any] = {"version": "1.0", "datasets": {}, "by_stage": {"1": [], "2": []}, "by_domain": {}}
    for dataset in prepared_datasets(folder):
        index["datasets"][dataset.key] = dict(dataset.metadata) | {"path": str(dataset.path)}
        index["by_stage"][str(dataset.stage)].append(dataset.key)
        index["by_domain"].setdefault(dataset.domain, []).append(dataset.key)
    write_json(folder / INDEX_FILE, index)


def write_json(path: Path, values: Mapping[str, Any]) -> None:
    """Write a JSON file whole or not at all."""
    write_text(path, printable(json.dumps(values, indent=2, ensure_ascii=False, allow_nan=False)) + "\n")


def now() -> str:
    """The time, in ISO 8601 and UTC."""
    return datetime.now(timezone.utc).isoformat(timespec="seconds")


def _place(folder: Path, key: str, values: Mapping[str, Any]) -> Path | None:
    """Where a dataset lies now: below `folder` even if that was moved since, else where the index says."""
    if (folder / key).is_dir() and Path(key).name == key:
        return folder / key
    said = values.get("path", values.get("save_path"))
    return Path(said) if isinstance(said, str) and Path(said).is_dir() else None


def _texts(value: Any) -> list[str]:
    return [item for item in value if isinstance(item, str)] if isinstance(value, list) else []
