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
from PIL import ExifTags, Image, ImageOps, UnidentifiedImageError

from embernet.errors import EmbernetError, InputError, OutOfMemoryError
from embernet.runtime.bundle import ImageFormat

ImageSource: TypeAlias = str | os.PathLike[str] | bytes | IO[bytes] | Image.Image | NDArray

# Decoding must leave a 512 MB board alive. Measured at the peak, besides the file itself, in bytes per pixel: 4 for an
# upright opaque JPEG or PNG, 8 if it is turned or transparent, 12 at most (progressive CMYK); 16 for WebP, whose
# decoder keeps copies of its own. The worst image needs 300 MB, a photo 100 to 200 MB, the runtime itself about 80 MB.
MAX_PIXELS = 25_000_000
MAX_PIXELS_COSTLY = 16_000_000
_COSTLY: set[str | None] = {"F", "I", "TIFF", "WEBP"}  # modes of 32 bits, and formats
# Resizing needs a row of the result for every row of the image, however narrow the image is.
MAX_SIDE = 65_535
MAX_FILE_BYTES = 64 * 2**20
# Rasters only: no format that runs programs (EPS) or holds pages (PDF).
FORMATS = ("BMP", "GIF", "JPEG", "PNG", "PPM", "TIFF", "WEBP")
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
        name = "array"
        with _decoding(name):
            return LoadedImage(_to_rgb(_from_array(source, name), name), name, None)
    name, data = _read(source)
    if not data:
        raise InputError(f"{name}: not an image (the file is empty)")
    with _decoding(name):
        rgb = _to_rgb(Image.open(io.BytesIO(data), formats=FORMATS), name)
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
        except (OSError, ValueError) as error:
            raise InputError(f"{path}: cannot be read ({getattr(error, 'strerror', None) or error})") from None
    if hasattr(source, "read"):
        name = str(getattr(source, "name", "image"))
        try:
            data = source.read(MAX_FILE_BYTES + 1)
        except (OSError, ValueError) as error:  # ValueError: the file is closed
            raise InputError(f"{name}: cannot be read ({error})") from None
        if not isinstance(data, bytes):
            raise InputError(f"{name}: cannot be read (found {type(data).__name__}, expected bytes)")
        if len(data) > MAX_FILE_BYTES:
            raise InputError(f"{name}: too large for an image (more than {MAX_FILE_BYTES >> 20} MB)")
        return name, data
    raise InputError(f"an image must be a path, bytes, a file, a PIL image or an array (found {type(source).__name__})")


@contextmanager
def _decoding(name: str) -> Iterator[None]:
    """Turn every way in which decoding can fail into one sentence."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # Pillow warns of large images and of odd metadata; neither matters here
            yield
    except EmbernetError:
        raise
    except UnidentifiedImageError:
        raise InputError(f"{name}: not an image (the format is not known, or none of {', '.join(FORMATS)})") from None
    except Image.DecompressionBombError as error:
        raise InputError(f"{name}: too large to decode ({error})") from None
    except MemoryError:
        raise OutOfMemoryError(f"{name}: the image does not fit in memory") from None
    except Exception as error:  # Pillow's decoders raise whatever they stumble over in a damaged file
        raise InputError(f"{name}: the image is damaged ({error})") from None


def _to_rgb(image: Image.Image, name: str) -> Image.Image:
    """Upright, on white, 8 bits. Holds as few copies as it can: a large photo must fit a small board."""
    _require_size(image.size, {image.format, image.mode}, name)
    has_16_bits = image.mode == "I" and image.format in ("PNG", "PPM")  # which Pillow may read as 32
    image.load()
    if image.getexif().get(ExifTags.Base.Orientation, 1) != 1:
        image = ImageOps.exif_transpose(image)
    if image.mode == "F" or image.mode.startswith("I"):
        values = np.asarray(image)
        image = _from_array(values.astype(np.uint16) if has_16_bits else values, name)
    if image.mode in ("RGBA", "LA", "PA", "RGBa", "La") or "transparency" in image.info:
        image = image.convert("RGBA")
        white = Image.new("RGB", image.size, "white")
        white.paste(image, mask=image)
        return white
    return image if image.mode == "RGB" else image.convert("RGB")


def _require_size(size: tuple[int, int], kinds: set[str | None], name: str) -> None:
    """InputError if an image could need too much memory. kinds: its format and its mode."""
    limit = MAX_PIXELS_COSTLY if kinds & _COSTLY else MAX_PIXELS
    if size[0] * size[1] > limit or max(size) > MAX_SIDE:
        raise InputError(
            f"{name}: too large to decode (found {size[0]} x {size[1]} pixels, expected at most {limit:,} in all and "
            f"{MAX_SIDE:,} on a side)"
        )


def _from_array(array: NDArray, name: str) -> Image.Image:
    """A PIL image of an array; 16 bits and floats are scaled to 8 bits, not cut."""
    if array.ndim == 3 and array.shape[2] == 1:
        array = array[..., 0]
    if array.size == 0 or not (array.ndim == 2 or (array.ndim == 3 and array.shape[2] in (3, 4))):
        raise InputError(f"{name}: an image must have the shape (height, width[, 1, 3 or 4]) (found {array.shape})")
    _require_size((array.shape[1], array.shape[0]), set(), name)
    if array.dtype == np.uint8:
        return Image.fromarray(np.ascontiguousarray(array))
    if np.issubdtype(array.dtype, np.uint16):
        scale = 1 / 257
    elif np.issubdtype(array.dtype, np.floating):
        scale = 255.0
        low, high = array.min(), array.max()
        if not 0 <= low <= high <= 1:  # NaN, too
            raise InputError(f"{name}: pixels that are floats must be from 0 to 1 (found {low:.6g} to {high:.6g})")
    else:
        raise InputError(f"{name}: pixels must be uint8, uint16 or floats from 0 to 1 (found {array.dtype})")
    scaled = np.empty(array.shape, np.uint8)
    for row, result in zip(array, scaled, strict=True):  # row by row, for the sake of memory
        result[...] = np.rint(row.astype(np.float64) * scale)
    return Image.fromarray(scaled)
