"""From whatever holds an image to `pixel_values`."""

import hashlib
import io
import os
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, TypeAlias

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps, UnidentifiedImageError

from embernet.errors import InputError
from embernet.runtime.bundle import ImageFormat

ImageSource: TypeAlias = str | os.PathLike[str] | bytes | IO[bytes] | Image.Image | NDArray

# A photograph of 100 megapixels already needs 300 MB; more is taken for a decompression bomb.
MAX_PIXELS = 100_000_000
MAX_FILE_BYTES = 256 * 2**20
_RESAMPLING = {"bicubic": Image.Resampling.BICUBIC, "bilinear": Image.Resampling.BILINEAR}


@dataclass(frozen=True)
class LoadedImage:
    """An upright RGB image. name: what error messages call it; sha256: of the encoded file, None without one."""

    rgb: Image.Image
    name: str
    sha256: str | None


def load_image(source: ImageSource) -> LoadedImage:
    """Decode an image from a path, bytes, a binary file, a PIL image or an array; InputError if it cannot be.

    Arrays are (height, width), (height, width, 1), (height, width, 3) or (height, width, 4): uint8, uint16 over the
    full range, or float from 0 to 1. EXIF rotation is applied, transparency is laid on white.
    """
    if isinstance(source, Image.Image):
        name = "image"
        with _decoding(name):
            return LoadedImage(_to_rgb(source, name), name, None)
    if isinstance(source, np.ndarray):
        return LoadedImage(_to_rgb(_from_array(source), "array"), "array", None)
    name, data = _read(source)
    if not data:
        raise InputError(f"{name}: not an image (the file is empty)")
    with _decoding(name):
        rgb = _to_rgb(Image.open(io.BytesIO(data)), name)
    return LoadedImage(rgb, name, hashlib.sha256(data).hexdigest())


def preprocess(image: Image.Image, image_format: ImageFormat) -> NDArray[np.float32]:
    """RGB image of any size -> pixel_values (1, 3, size, size). The aspect ratio is not kept, as in SigLIP."""
    size = (image_format.size, image_format.size)
    resized = image.resize(size, _RESAMPLING[image_format.resample])
    mean, std = (np.array(values, dtype=np.float32) for values in (image_format.mean, image_format.std))
    pixels = (np.asarray(resized, dtype=np.float32) * np.float32(1 / 255) - mean) / std
    return np.ascontiguousarray(pixels.transpose(2, 0, 1)[None])


def _read(source: "str | os.PathLike[str] | bytes | IO[bytes]") -> tuple[str, bytes]:
    if isinstance(source, bytes):
        return "image", source
    if isinstance(source, str | os.PathLike):
        path = Path(source)
        try:
            with open(path, "rb") as file:
                return _read(file)
        except IsADirectoryError:
            raise InputError(f"{path}: not an image (it is a directory)") from None
        except FileNotFoundError:
            raise InputError(f"{path}: no such file") from None
        except OSError as error:
            raise InputError(f"{path}: cannot be read ({error.strerror})") from None
    if hasattr(source, "read"):
        name, data = str(getattr(source, "name", "image")), source.read(MAX_FILE_BYTES + 1)
        if len(data) > MAX_FILE_BYTES:
            raise InputError(f"{name}: too large for an image (more than {MAX_FILE_BYTES >> 20} MB)")
        return name, data
    raise InputError(f"an image must be a path, bytes, a file, a PIL image or an array (found {type(source).__name__})")


@contextmanager
def _decoding(name: str) -> Iterator[None]:
    """Turn every way in which decoding can fail into one sentence."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)  # MAX_PIXELS decides
            yield
    except UnidentifiedImageError:
        raise InputError(f"{name}: not an image (the format is not known)") from None
    except Image.DecompressionBombError as error:
        raise InputError(f"{name}: too large to decode ({error})") from None
    except (OSError, ValueError, SyntaxError, EOFError, IndexError, ArithmeticError, TypeError) as error:
        # Pillow's decoders raise all of these on damaged files.
        raise InputError(f"{name}: the image is damaged ({error})") from None


def _to_rgb(image: Image.Image, name: str) -> Image.Image:
    if image.width * image.height > MAX_PIXELS:
        raise InputError(
            f"{name}: too large to decode (found {image.width} x {image.height} pixels, at most {MAX_PIXELS:,})"
        )
    image = ImageOps.exif_transpose(image)
    if image.mode.startswith("I"):
        image = _from_array(np.asarray(image))
    if image.mode in ("RGBA", "LA", "PA", "RGBa", "La") or "transparency" in image.info:
        image = image.convert("RGBA")
        white = Image.new("RGBA", image.size, "white")
        return Image.alpha_composite(white, image).convert("RGB")
    return image.convert("RGB")


def _from_array(array: NDArray) -> Image.Image:
    """A PIL image of an array; deep integer images are scaled to 8 bits, not cut."""
    if array.ndim == 3 and array.shape[2] == 1:
        array = array[..., 0]
    if array.size == 0 or not (array.ndim == 2 or (array.ndim == 3 and array.shape[2] in (3, 4))):
        raise InputError(f"an image array must have the shape (height, width[, 1, 3 or 4]) (found {array.shape})")
    if array.dtype == np.uint8:
        return Image.fromarray(np.ascontiguousarray(array))
    if np.issubdtype(array.dtype, np.floating):
        if not np.isfinite(array).all():
            raise InputError("an image array must not hold NaN or infinity")
        values = np.clip(array.astype(np.float64), 0, 1) * 255
    elif np.issubdtype(array.dtype, np.integer):
        values = np.clip(array.astype(np.int64), 0, 65535) / 257
    else:
        raise InputError(f"an image array must be uint8, uint16 or float (found {array.dtype})")
    return Image.fromarray(np.rint(values).astype(np.uint8))
