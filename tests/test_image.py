"""Images: the reference's preprocessing, every kind of source, and files that are not what they seem."""

import io
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from embernet.errors import InputError, OutOfMemoryError
from embernet.runtime import image as image_module
from embernet.runtime.bundle import ImageFormat
from embernet.runtime.image import load_image, preprocess
from tests import tolerances

HALF = (0.5, 0.5, 0.5)


def png(image: Image.Image, **options) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, "PNG", **options)
    return buffer.getvalue()


@pytest.fixture
def gradient() -> Image.Image:
    """8 x 6, every pixel another colour."""
    rows = np.arange(8 * 6, dtype=np.uint8).reshape(6, 8)
    return Image.fromarray(np.stack([rows * 5, 255 - rows, rows * 2], axis=-1))


@pytest.mark.parametrize(("resample", "golden"), [("bicubic", "img_infer_preproc"), ("bilinear", "img_train_preproc")])
def test_preprocessing_is_the_references(ops, resample, golden):
    pixels = preprocess(load_image(ops["img_uint8"]).rgb, ImageFormat(64, resample, HALF, HALF))
    assert pixels.shape == (1, 3, 64, 64)
    np.testing.assert_allclose(pixels[0], ops[golden].reshape(3, 64, 64), atol=tolerances.PIXELS)


def test_all_sources_of_one_image_are_the_same(tmp_path, gradient):
    data = png(gradient)
    path = tmp_path / "image.png"
    path.write_bytes(data)
    with open(path, "rb") as file:
        loaded = [
            load_image(s) for s in (path, str(path), data, io.BytesIO(data), file, gradient, np.asarray(gradient))
        ]
    for other in loaded:
        np.testing.assert_array_equal(np.asarray(other.rgb), np.asarray(gradient))
    assert len({item.sha256 for item in loaded[:5]}) == 1
    assert loaded[0].name == str(path)


def test_exif_rotation_is_applied(gradient):
    exif = Image.Exif()
    exif[0x0112] = 6  # the camera was turned: rotate by 270 degrees to stand upright
    upright = load_image(png(gradient, exif=exif)).rgb
    assert upright.size == (6, 8)
    np.testing.assert_array_equal(np.asarray(upright), np.rot90(np.asarray(gradient), 3))


def test_transparency_is_laid_on_white():
    image = Image.new("RGBA", (2, 1), (255, 0, 0, 255))
    image.putpixel((1, 0), (0, 0, 255, 0))
    assert list(load_image(png(image)).rgb.get_flattened_data()) == [(255, 0, 0), (255, 255, 255)]
    palette = Image.new("P", (1, 1), 0)
    assert list(load_image(png(palette, transparency=0)).rgb.get_flattened_data()) == [(255, 255, 255)]
    assert list(load_image(np.zeros((1, 1, 4), np.uint8)).rgb.get_flattened_data()) == [(255, 255, 255)]


def test_grey_and_cmyk_become_rgb():
    assert load_image(png(Image.new("L", (1, 1), 7))).rgb.getpixel((0, 0)) == (7, 7, 7)
    assert load_image(png(Image.new("1", (1, 1), 1))).rgb.getpixel((0, 0)) == (255, 255, 255)
    buffer = io.BytesIO()
    Image.new("CMYK", (8, 8), (0, 255, 255, 0)).save(buffer, "JPEG")
    red, green, blue = load_image(buffer.getvalue()).rgb.getpixel((4, 4))
    assert red > 200
    assert max(green, blue) < 60


def test_sixteen_bits_are_scaled_not_cut():
    values = np.array([[0, 257, 32768, 65535]], np.uint16)
    expected = [0, 1, 128, 255]
    for source in (png(Image.fromarray(values)), values, values[..., None]):
        assert [p[0] for p in load_image(source).rgb.get_flattened_data()] == expected


def test_float_arrays_go_from_zero_to_one():
    values = np.array([[0.0, 0.5, 1.0]])
    for source in (values, values.astype(np.float32), Image.fromarray(values.astype(np.float32))):
        assert [p[0] for p in load_image(source).rgb.get_flattened_data()] == [0, 128, 255]


@pytest.mark.parametrize("dtype", [np.int32, np.float32])
def test_pixels_of_32_bits_are_never_silently_black(dtype):
    """A scientific TIFF of the values 0 to 200: what is white in it nobody knows."""
    buffer = io.BytesIO()
    image = Image.fromarray(np.array([[0, 200]], dtype))
    image.save(buffer, "TIFF")
    for source in (image, buffer.getvalue()):
        refused(source, "image: pixels .*must be")


@pytest.mark.parametrize(
    ("array", "match"),
    [
        (np.zeros((2, 2, 5), np.uint8), r"must have the shape .* \(found \(2, 2, 5\)\)"),
        (np.zeros((0, 4), np.uint8), "must have the shape"),
        (np.full((2, 2), np.nan), "must be from 0 to 1 .found nan"),
        (np.full((2, 2), 128.0), "must be from 0 to 1 .found 128 to 128"),
        (np.full((2, 2), -0.1), "must be from 0 to 1"),
        (np.full((2, 2), "a"), "must be uint8"),
        (np.full((2, 2), 200, np.int64), "must be uint8"),
        (np.full((2, 2), 200, np.int16), "must be uint8"),
        (np.full((2, 2), True), "must be uint8"),
        (np.zeros((1, 70_000), np.uint8), "too large to decode"),
    ],
)
def test_arrays_that_are_no_images(array, match):
    with pytest.raises(InputError, match=match):
        load_image(array)


# --- files ----------------------------------------------------------------------------------------------------------


def refused(source, match: str) -> None:
    with pytest.raises(InputError, match=match) as caught:
        load_image(source)
    assert "\n" not in str(caught.value)


def test_missing_empty_and_foreign_files(tmp_path):
    refused(tmp_path / "nothing.jpg", "nothing.jpg: no such file")
    refused(tmp_path, "it is a directory")
    (tmp_path / "empty.jpg").write_bytes(b"")
    refused(tmp_path / "empty.jpg", "empty.jpg: not an image .the file is empty")
    (tmp_path / "text.jpg").write_text("hello")
    refused(tmp_path / "text.jpg", "text.jpg: not an image .the format is not known")
    refused(3, "an image must be a path")
    refused("a\0b.jpg", "cannot be read .*null")


class Broken:
    """A file whose `read` gives `result`, or raises it."""

    def __init__(self, result: object) -> None:
        self.result = result

    def read(self, size: int) -> object:
        if isinstance(self.result, Exception):
            raise self.result
        return self.result


def test_file_objects_that_cannot_be_read(tmp_path):
    closed = io.BytesIO(b"data")
    closed.close()
    refused(closed, "cannot be read .*closed")
    refused(Broken(OSError("unplugged")), "image: cannot be read .unplugged")
    for result in (None, "text"):
        refused(Broken(result), "image: cannot be read .found .*, expected bytes")


def test_formats_that_are_programs_or_pages_are_not_opened(gradient):
    for kind in ("EPS", "PDF"):
        buffer = io.BytesIO()
        gradient.save(buffer, kind)
        refused(buffer.getvalue(), "not an image .the format is not known, or none of BMP")


def test_odd_metadata_is_not_worth_a_warning(gradient):
    # A count of 200 entries, and then nothing; the test would fail on a warning.
    load_image(png(gradient, exif=b"Exif\0\0II*\0\x08\0\0\0\xc8\0"))


def test_an_image_of_the_caller_is_left_alone(gradient):
    gradient.getexif()[0x0112] = 6
    before = gradient.tobytes()
    assert load_image(gradient).rgb.size == (6, 8)
    assert (gradient.size, gradient.tobytes()) == ((8, 6), before)


def test_an_image_that_does_not_fit_in_memory(gradient, monkeypatch):
    def fail(*args: object) -> None:
        raise MemoryError

    monkeypatch.setattr(image_module, "_to_rgb", fail)
    with pytest.raises(OutOfMemoryError, match="image: the image does not fit in memory"):
        load_image(png(gradient))


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "GIF", "TIFF", "WEBP", "BMP"])
def test_cut_files(gradient, kind):
    buffer = io.BytesIO()
    gradient.resize((80, 60)).save(buffer, kind)
    data = buffer.getvalue()
    for keep in (len(data) // 8, len(data) // 2):
        refused(data[:keep], "image: (the image is damaged|not an image)")


def test_a_decompression_bomb_is_refused_before_it_is_decoded():
    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", 60_000, 60_000, 8, 2, 0, 0, 0)
    bomb = (
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(bytes(1000))) + chunk(b"IEND", b"")
    )
    refused(bomb, "too large to decode")
    refused(png(Image.new("1", (20_000, 6_000))), r"too large to decode .found 20000 x 6000 pixels")
    refused(png(Image.new("1", (70_000, 1))), r"too large to decode .*65,535 on a side")


def test_formats_that_take_more_memory_have_a_smaller_limit(gradient, monkeypatch):
    monkeypatch.setattr(image_module, "MAX_PIXELS_COSTLY", 40)
    for kind in ("TIFF", "WEBP"):
        buffer = io.BytesIO()
        gradient.save(buffer, kind)
        refused(buffer.getvalue(), "at most 40 in all")
    load_image(png(gradient))


def test_an_endless_file_is_refused(monkeypatch):
    monkeypatch.setattr(image_module, "MAX_FILE_BYTES", 1000)
    refused(Path("/dev/zero"), "too large for an image")
