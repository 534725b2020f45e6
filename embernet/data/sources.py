"""Opens datasets of every known form by their path."""

import os
from collections.abc import Mapping
from pathlib import Path

from embernet.data.example import GENERAL, ExampleSource
from embernet.data.folder import IMAGE_SUFFIXES, CaptionFolder
from embernet.data.llava import LlavaJson
from embernet.data.prepared import INDEX_FILE, METADATA_FILE, PreparedDataset, prepared_datasets
from embernet.data.records import Columns
from embernet.data.registry import DATASETS, DatasetEntry
from embernet.data.splits import SPLITS, choose_split
from embernet.data.tables import Table, is_saved_dataset, open_parquet, open_saved
from embernet.errors import InputError

IMAGES_FOLDER = "images"  # in a data directory: image files that datasets only name
_JSON_SUFFIXES = {".json", ".jsonl"}
_STAGES = (1, 2)


def open_source(
    path: str | os.PathLike[str],
    split: str = "train",
    *,
    name: str | None = None,
    domain: str = GENERAL,
    images: str | os.PathLike[str] | None = None,
    entry: DatasetEntry | None = None,
) -> ExampleSource:
    """The examples of one split of the dataset at `path`; InputError says what is wrong with it.

    path: LLaVA JSON (.json, .jsonl), a parquet file, or a folder that holds either, a dataset saved by the `datasets`
    library, or images with captions. split: "train", "validation" or "test"; embernet.data.splits tells which examples
    these are. domain: of examples that name none. images: folder of image files that lie elsewhere.
    entry: the dataset of the registry that it is, which says what the names of its columns and splits do not.
    """
    path = Path(path)
    sources = _open_splits(path, name or path.resolve().stem, domain, () if images is None else (Path(images),), entry)
    return choose_split(sources, split, entry.train_split if entry else None)


def open_data_dir(path: str | os.PathLike[str], stage: int, split: str = "train") -> list[ExampleSource]:
    """The datasets for a training stage (1 or 2) in a directory that `embernet data prepare` filled.

    Both published generations of such directories are read. Any other path is opened as one dataset for either stage.
    InputError if nothing in it is for this stage.
    """
    path = Path(path)
    if stage not in _STAGES:
        raise ValueError(f"stage must be 1 or 2 (found {stage})")
    datasets = prepared_datasets(path) if path.is_dir() else []
    if not datasets:
        return [open_source(path, split)]
    sources = []
    for dataset in datasets:
        if dataset.stage == stage:
            entry = DATASETS.get(dataset.key)
            try:
                splits = open_all(dataset, path)
            except InputError as error:
                if entry is None or not entry.separate_images:
                    raise
                hint = f"put the images of {dataset.key} into {path / IMAGES_FOLDER}, or remove {dataset.path}"
                raise InputError(str(error), hint=hint) from None
            sources.append(choose_split(splits, split, entry.train_split if entry else None))
    if not sources:
        found = ", ".join(f"{dataset.key} for stage {dataset.stage}" for dataset in datasets)
        raise InputError(
            f"{path}: holds no dataset for stage {stage} (found {found})", hint="embernet data prepare --list"
        )
    return sources


def open_all(dataset: PreparedDataset, folder: Path) -> Mapping[str, ExampleSource]:
    """All splits of a dataset in the data directory `folder`, as its publisher made them."""
    entry = DATASETS.get(dataset.key)
    return _open_splits(dataset.path, dataset.key, dataset.domain, (folder / IMAGES_FOLDER,), entry)


def _open_splits(
    path: Path, name: str, domain: str, images: tuple[Path, ...], entry: DatasetEntry | None
) -> Mapping[str, ExampleSource]:
    """The splits that a dataset has itself; "train" is all of one that is not split."""
    columns = entry.columns if entry else Columns()
    if path.is_file():
        if path.suffix.lower() in _JSON_SUFFIXES:
            return {"train": LlavaJson(path, name, domain, images, columns)}
        if path.suffix.lower() == ".parquet":
            tables = open_parquet([path])
            return {split: Table(table, name, domain, images, columns) for split, table in tables.items()}
        raise InputError(f"{path}: not a dataset (expected .json, .jsonl, .parquet or a folder)")
    if not path.is_dir():
        raise InputError(f"{path}: no such dataset")
    if (path / INDEX_FILE).is_file():
        held = ", ".join(dataset.key for dataset in prepared_datasets(path)) or "none"
        raise InputError(f"{path}: a data directory, not a dataset (datasets in it: {held})")
    if is_saved_dataset(path):
        tables, image_table = open_saved(path)
        return {split: Table(table, name, domain, images, columns, image_table) for split, table in tables.items()}
    if files := list(path.rglob("*.parquet")):
        tables = open_parquet(files)
        return {split: Table(table, name, domain, images, columns) for split, table in tables.items()}
    if annotations := _annotation_files(path):
        if len(annotations) > 1 and not set(annotations) & set(SPLITS):
            names = ", ".join(file.name for file in annotations.values())
            raise InputError(f"{path}: holds several JSON files ({names})", hint="give the path of one of them")
        if len(annotations) == 1:
            annotations = {"train": next(iter(annotations.values()))}
        return {split: LlavaJson(file, name, domain, images, columns) for split, file in annotations.items()}
    if not any(path.iterdir()):
        raise InputError(f"{path}: the folder is empty")
    folders = {split: path / split for split in SPLITS if (path / split).is_dir()}
    if "train" in folders:
        return {split: CaptionFolder(folder, name, domain) for split, folder in folders.items()}
    try:
        return {"train": CaptionFolder(path, name, domain)}
    except InputError as error:
        below = [child for child in sorted(path.iterdir()) if child.is_dir() and _annotation_files(child)]
        if not below:
            raise
        raise InputError(
            str(error), hint=f"a dataset in a folder below is opened by its own path: {below[0]}"
        ) from None


def _annotation_files(folder: Path) -> dict[str, Path]:
    """JSON files at the top of a folder that are no image's caption."""
    files = [file for file in folder.iterdir() if file.is_file()]
    captioned = {file.stem for file in files if file.suffix.lower() in IMAGE_SUFFIXES}
    return {
        file.stem: file
        for file in sorted(files)
        if file.suffix.lower() in _JSON_SUFFIXES and file.name != METADATA_FILE and file.stem not in captioned
    }
