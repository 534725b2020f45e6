"""Datasets in Arrow tables: saved by the `datasets` library, or parquet files. Memory-mapped, never loaded whole."""

import re
import sys
from collections import defaultdict
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from embernet.data.example import GENERAL, Example
from embernet.data.images import find_image, one_image
from embernet.data.records import IMAGE_COLUMNS, Columns, record_domain, record_images, record_turns
from embernet.errors import InputError, MissingExtraError

if TYPE_CHECKING:
    import datasets

IMAGE_TABLE = "images"  # in a saved dataset: a table of images by id, for records that share them
_SHARD = re.compile(r"(?P<split>.+?)-\d{5}-of-\d{5}")
_SPLIT = re.compile(r"(train|val|validation|dev|test)\d*")


class Table:
    """The rows of a table of the `datasets` library; ids are their numbers, from 0.

    images: folders in which image files that a row names are looked for. image_table: images by id, for rows that
    name one in the column `columns.image_key`. InputError if there is no column with images.
    """

    def __init__(
        self,
        dataset: "datasets.Dataset",
        name: str,
        domain: str = GENERAL,
        images: tuple[Path, ...] = (),
        columns: Columns | None = None,
        image_table: "datasets.Dataset | None" = None,
    ) -> None:
        self.name = name
        self._domain = domain
        self._columns = columns or Columns()
        self._folders = tuple(folder / self._columns.image_folder for folder in images)
        # As Arrow, images stay encoded whatever the columns' types are.
        self._dataset = dataset.with_format("arrow")
        self._image_table = None if image_table is None else image_table.with_format("arrow")
        self._image_rows: dict[str, int] = {}
        key = self._columns.image_key
        if key is not None and image_table is not None:
            self._image_rows = {str(id_): row for row, id_ in enumerate(image_table["id"])}
        wanted = ((key,) if key else ()) + (self._columns.images or IMAGE_COLUMNS)
        if not any(column in dataset.column_names for column in wanted):
            raise InputError(
                f"{name}: has no column with images (found {', '.join(dataset.column_names)}; "
                f"expected {' or '.join(wanted)})"
            )

    def __len__(self) -> int:
        return len(self._dataset)

    def __getitem__(self, index: int) -> Example:
        if not 0 <= index < len(self):
            raise IndexError(index)
        try:
            record = self._dataset[index].to_pylist()[0]
            turns, references = record_turns(record, self._columns)
            values = record_images(record, self._columns)
            if self._columns.image_key is not None:
                values = [self._shared_image(record.get(self._columns.image_key))]
            image = one_image([find_image(value, self._folders) for value in values])
            return Example(str(index), image, turns, record_domain(record, self._domain), references)
        except (InputError, ValueError) as error:  # ValueError: the table is damaged
            raise InputError(f"{self.name}: record {index} cannot be used: {error}") from None

    def _shared_image(self, id_: Any) -> Any:
        row = self._image_rows.get(str(id_))
        if self._image_table is None or row is None:
            raise InputError(f"its image {id_} is not in the table of images")
        return self._image_table[row].to_pylist()[0]["image"]


def is_saved_dataset(folder: Path) -> bool:
    """Whether `save_to_disk` of the datasets library wrote a folder."""
    return (folder / "dataset_dict.json").is_file() or (folder / "state.json").is_file()


def open_saved(folder: Path) -> "tuple[dict[str, datasets.Dataset], datasets.Dataset | None]":
    """The splits of a saved dataset (a single one is called train), and its table of images if it has one."""
    library = _library()
    try:
        saved = library.load_from_disk(str(folder))
        splits = dict(saved) if isinstance(saved, library.DatasetDict) else {"train": saved}
        image_folder = folder / IMAGE_TABLE
        return splits, library.load_from_disk(str(image_folder)) if is_saved_dataset(image_folder) else None
    except Exception as error:  # pyarrow and json raise a dozen kinds on cut files
        raise InputError(f"{folder}: not readable as a saved dataset ({_reason(error)})") from None


def open_parquet(files: Iterable[Path], cache: Path | None = None) -> "dict[str, datasets.Dataset]":
    """The splits of parquet files, named as the hub names them: train-00000-of-00002.parquet, or train/0.parquet.

    cache: where the library writes the mapped form of them. Default: its own cache ($HF_HOME).
    """
    library = _library()
    groups: defaultdict[str, list[str]] = defaultdict(list)
    for file in sorted(files):
        groups[_split_name(file)].append(str(file))
    splits = {}
    for split, paths in groups.items():
        try:
            splits[split] = library.Dataset.from_parquet(paths, cache_dir=None if cache is None else str(cache))
        except Exception as error:  # of pyarrow, wrapped by the library
            reason = _reason(error.__cause__ or error)
            raise InputError(f"{paths[0]}: not readable as parquet ({reason})") from None
    return splits


def _split_name(file: Path) -> str:
    if match := _SHARD.match(file.stem):
        return match["split"]
    return next((name for name in (file.parent.name, file.stem) if _SPLIT.fullmatch(name)), "train")


def _reason(error: BaseException) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]


def _library() -> Any:
    try:
        import datasets
    except ImportError:
        raise MissingExtraError(
            "reading this dataset needs datasets, which is not installed", hint="pip install 'embernet[train]'"
        ) from None
    if not sys.stderr.isatty():
        datasets.disable_progress_bars()
    return datasets
