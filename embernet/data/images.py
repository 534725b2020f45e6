"""Where the images of examples come from: files below known folders, bytes, or several put side by side."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from PIL import Image

from embernet.errors import InputError
from embernet.runtime.image import MAX_PIXELS, ImageSource, load_image


def find_image(value: Any, folders: Sequence[Path]) -> ImageSource:
    """Bytes as they are, or the file that a record names, in the first folder that has it; InputError if none has."""
    if isinstance(value, Mapping):  # how the datasets library stores images
        value = value.get("bytes") or value.get("path")
    if not value:
        raise InputError("its image is empty")
    if isinstance(value, bytes):
        return value
    if not isinstance(value, str):
        raise InputError(f"its image is neither a file's name nor bytes (found {type(value).__name__})")
    if "://" in value:
        raise InputError(f"its image is an address on the web, which is not fetched ({value})")
    if "\0" in value:
        raise InputError("its image's name holds a null character")
    if ".." in Path(value).parts:  # the file that names it may come from a stranger
        raise InputError(f"its image lies outside of the dataset ({value})")
    try:
        for folder in folders:
            if (folder / value).is_file():
                return folder / value
    except OSError as error:  # the name is too long, as of an image written out in letters
        raise InputError(f"{value:.80}: its image cannot be looked for ({error.strerror})") from None
    raise InputError(f"{value}: no such image file")


def one_image(sources: Sequence[ImageSource]) -> ImageSource | None:
    """The only image, several side by side on white, None without one; InputError if one of several is not usable."""
    if len(sources) < 2:
        return sources[0] if sources else None
    images, width, height = [], 0, 0
    for source in sources:
        images.append(load_image(source).rgb)
        width, height = width + images[-1].width, max(height, images[-1].height)
        if width * height > MAX_PIXELS:  # said before a record with hundreds of them fills the memory
            raise InputError(f"its {len(sources)} images are too large side by side (more than {MAX_PIXELS:,} pixels)")
    canvas = Image.new("RGB", (width, height), "white")
    x = 0
    for image in images:
        canvas.paste(image, (x, 0))
        x += image.width
    return canvas
