"""A folder of images with captions in files of the same name."""

import os
from pathlib import Path

from embernet import image_files
from embernet.data.example import GENERAL, Example
from embernet.data.records import DEFAULT_QUESTION, Columns, record_domain, record_turns
from embernet.errors import InputError
from embernet.json_file import read_json_object

IMAGE_SUFFIXES = image_files.IMAGE_SUFFIXES | {".ppm"}
_TEXT_SUFFIX, _JSON_SUFFIX = ".txt", ".json"


class CaptionFolder:
    """photo.jpg with photo.txt (a caption) or photo.json (a caption, a question and its answer, a conversation).

    Folders below count too. Ids are names relative to the folder, in the order of the alphabet.
    InputError if there are no images, or if none has a caption.
    """

    def __init__(self, folder: Path, name: str | None = None, domain: str = GENERAL) -> None:
        self.name = name or folder.name
        self._folder = folder
        self._domain = domain
        files = {Path(root, file) for root, _, files in os.walk(folder) for file in files}
        self._images = sorted(file for file in files if file.suffix.lower() in IMAGE_SUFFIXES)
        if not self._images:
            raise InputError(f"{folder}: holds no images")
        suffixes = (_TEXT_SUFFIX, _JSON_SUFFIX)
        if not any(image.with_suffix(suffix) in files for image in self._images for suffix in suffixes):
            raise InputError(
                f"{folder}: none of its {len(self._images)} images has a caption "
                f"(expected {self._images[0].stem}{_TEXT_SUFFIX} or {self._images[0].stem}{_JSON_SUFFIX} beside it)"
            )

    def __len__(self) -> int:
        return len(self._images)

    def __getitem__(self, index: int) -> Example:
        image = self._images[index]
        id_ = image.relative_to(self._folder).as_posix()
        try:
            text, record = image.with_suffix(_TEXT_SUFFIX), image.with_suffix(_JSON_SUFFIX)
            if text.is_file():
                caption = text.read_text(encoding="utf-8").strip()
                if not caption:
                    raise InputError(f"{text.name} is empty")
                return Example(id_, image, ((DEFAULT_QUESTION, caption),), self._domain)
            if not record.is_file():
                raise InputError("it has no caption")
            values = read_json_object(record)
            turns, references = record_turns(values, Columns())
            return Example(id_, image, turns, record_domain(values, self._domain), references)
        except (InputError, OSError, ValueError) as error:
            raise InputError(f"{self.name}: {id_} cannot be used: {error}") from None
