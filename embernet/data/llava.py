"""LLaVA JSON: records that name image files and hold a conversation, or a question and its answer."""

import json
import mmap
from array import array
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from embernet.data.example import GENERAL, Example
from embernet.data.images import find_image, one_image
from embernet.data.records import IMAGE_COLUMNS, Columns, record_domain, record_images, record_turns
from embernet.errors import InputError

_PROBES = 20  # records whose images are looked for before a file is trusted
_SPACE = " \t\r\n"


class LlavaJson:
    """The examples of a JSON list, or of JSON lines; ids are their numbers, from 0.

    Where each record begins is found once; records are then read from the mapped file, because the objects of a
    million records need ten times the memory of their text. images: folders in which image files are looked for.
    InputError if the file is not such JSON, or if none of the images that it names is there.
    """

    def __init__(
        self,
        path: Path,
        name: str | None = None,
        domain: str = GENERAL,
        images: tuple[Path, ...] = (),
        columns: Columns | None = None,
    ) -> None:
        self.name = name or path.stem
        self.path = path
        self._domain = domain
        self._columns = columns or Columns()
        # Beside the file, in a folder beside it, or where the caller says.
        below = sorted(folder for folder in path.parent.iterdir() if folder.is_dir() and folder.name[0] != ".")
        named = [folder / self._columns.image_folder for folder in images]
        self._folders = (*named, path.parent, *below)
        self._spans = record_spans(path)
        self._require_images()

    def __len__(self) -> int:
        return len(self._spans) // 2

    def __getitem__(self, index: int) -> Example:
        record = self._record(index)
        try:
            turns, references = record_turns(record, self._columns)
            sources = [find_image(value, self._folders) for value in record_images(record, self._columns)]
            image = one_image(sources)
            return Example(str(index), image, turns, record_domain(record, self._domain), references)
        except InputError as error:
            raise InputError(f"{self.name}: record {index} cannot be used: {error}") from None

    def _record(self, index: int) -> Mapping[str, Any]:
        if not 0 <= index < len(self):
            raise IndexError(index)
        start, end = self._spans[2 * index], self._spans[2 * index + 1]
        try:
            with open(self.path, "rb") as file:
                file.seek(start)
                record = json.loads(file.read(end - start))
        except (OSError, ValueError, RecursionError) as error:  # ValueError: not UTF-8
            raise InputError(f"{self.name}: record {index} cannot be used: {error}") from None
        if not isinstance(record, dict):
            raise InputError(f"{self.name}: record {index} cannot be used: it is not a JSON object")
        return record

    def _require_images(self) -> None:
        missing: list[str] = []
        for index in range(len(self)):
            try:
                values = record_images(self._record(index), self._columns)
            except InputError:
                continue
            if not values:
                continue
            try:
                find_image(values[0], self._folders)
            except InputError as error:
                missing.append(str(error))
                if len(missing) < _PROBES:
                    continue
            else:
                return
            break
        if not missing:
            expected = " or ".join(self._columns.images or IMAGE_COLUMNS)
            raise InputError(f"{self.path}: no record names an image (expected a key {expected})")
        raise InputError(
            f"{self.path}: none of the first {len(missing)} images is there; the first: {missing[0]}",
            hint="put the images beside the JSON file, or into a folder beside it",
        )


def record_spans(path: Path) -> "array[int]":
    """Begin and end of every record, in bytes, one after the other; InputError if the file is not such JSON."""
    spans = array("q")
    decoder = json.JSONDecoder()
    try:
        with open(path, "rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as mapped:
            # One character per byte, so that places in the text are places in the file; UTF-8 leaves ASCII alone.
            text = str(mapped, "latin-1")
    except (OSError, ValueError) as error:
        reason = "the file is empty" if path.is_file() and path.stat().st_size == 0 else error
        raise InputError(f"{path}: not readable as JSON ({reason})") from None
    place = _skip(text, 3 if text.startswith("\xef\xbb\xbf") else 0)
    is_list = text[place : place + 1] == "["
    place = _skip(text, place + 1) if is_list else place
    try:
        while place < len(text) and text[place] != "]":
            _, end = decoder.raw_decode(text, place)
            spans.extend((place, end))
            place = _skip(text, end)
            if is_list and text[place : place + 1] == ",":
                place = _skip(text, place + 1)
            elif is_list and text[place : place + 1] != "]":
                raise ValueError("it ends in the middle of a list" if place >= len(text) else f"found {text[place]!r}")
    except (ValueError, RecursionError) as error:
        raise InputError(f"{path}: not readable as JSON after {len(spans) // 2} records ({error})") from None
    if not spans:
        raise InputError(f"{path}: holds no records")
    return spans


def _skip(text: str, place: int) -> int:
    while place < len(text) and text[place] in _SPACE:
        place += 1
    return place
