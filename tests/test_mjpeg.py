"""A stream of JPEG images: whole images only, the newest one when it is asked for."""

import io
import json
import os
import socket
import subprocess
import threading

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from embernet.device import mjpeg
from embernet.device.frames import Stop
from embernet.device.mjpeg import JpegSplitter, MjpegStream
from embernet.errors import InputError
from embernet.runtime import load
from tests.conftest import EXAMPLES
from tests.test_cli import embernet


def jpeg(seed: int, **options: object) -> bytes:
    """Noise, so that the compressed data holds all kinds of bytes."""
    file = io.BytesIO()
    pixels = np.random.default_rng(seed).integers(0, 256, (40, 56, 3), np.uint8)
    Image.fromarray(pixels).save(file, "JPEG", quality=92, **options)
    return file.getvalue()


def with_thumbnail(image: bytes, thumbnail: bytes) -> bytes:
    """As cameras write it: a whole JPEG in a segment of the JPEG."""
    segment = b"Exif\0\0" + thumbnail
    return image[:2] + b"\xff\xe1" + (len(segment) + 2).to_bytes(2, "big") + segment + image[2:]


IMAGES = [
    jpeg(0),
    jpeg(1, progressive=True),
    jpeg(2, restart_marker_blocks=3),
    with_thumbnail(jpeg(3), jpeg(4)),
    jpeg(5).replace(b"\xff\xda", b"\xff\xff\xff\xda", 1),  # fill bytes before a marker
    jpeg(6, optimize=True, comment=b"\xff\xd9 and \xff\xd8\xff"),
]


def split(stream: bytes, size: int = 1 << 16) -> list[bytes]:
    splitter = JpegSplitter()
    return [image for at in range(0, len(stream), size) for image in splitter.feed(stream[at : at + size])]


# --- where images begin and end -------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [1, 7, 4096, 1 << 20])
def test_images_are_found_however_the_stream_is_cut(size):
    assert split(b"".join(IMAGES), size) == IMAGES


def test_what_lies_between_images_is_left_out():
    boundary = b"\r\n--frame\r\nContent-Type: image/jpeg\r\nContent-Length: 99\r\n\r\n"
    assert split(boundary + boundary.join(IMAGES) + boundary) == IMAGES


def test_an_image_that_is_cut_is_dropped_and_the_next_one_found():
    for cut in (3, 25, len(IMAGES[0]) // 2, len(IMAGES[0]) - 2):
        assert split(IMAGES[0][:cut] + IMAGES[1] + IMAGES[2])[-1:] == [IMAGES[2]], cut
    assert split(IMAGES[0][-700:] + IMAGES[1]) == [IMAGES[1]]  # begun in the middle
    assert split(IMAGES[0][: len(IMAGES[0]) // 2] + IMAGES[1]) == [IMAGES[1]]


@settings(deadline=None)
@given(st.binary(max_size=60), st.integers(1, 50))
def test_garbage_never_hides_the_images_after_it(garbage, size):
    garbage = garbage.replace(b"\xff", b"\xfe")
    assert split(garbage + IMAGES[0] + garbage + IMAGES[2], size) == [IMAGES[0], IMAGES[2]]


@settings(deadline=None)
@given(st.lists(st.sampled_from([b"\xff", b"\xd8", b"\xd9", b"\xda", b"\xc4", b"\x00", b"\x02", b"a"]), max_size=40))
def test_no_stream_is_too_strange(pieces):
    for image in split(b"".join(pieces), 3):
        assert image.startswith(b"\xff\xd8\xff")
        assert image.endswith(b"\xff\xd9")


def test_no_more_is_kept_than_an_image_may_have(monkeypatch):
    monkeypatch.setattr(mjpeg, "MAX_FILE_BYTES", 5000)
    splitter = JpegSplitter()
    assert not list(splitter.feed(IMAGES[0][:-2] + b"\0" * 9000))
    assert len(splitter._data) <= 5000
    small = with_thumbnail(b"\xff\xd8\xff\xd9", b"")
    assert list(splitter.feed(small)) == [small]


def test_an_image_of_a_webcam_without_its_tables_can_be_decoded():
    """Motion JPEG leaves out the Huffman tables of the standard."""
    image, at = IMAGES[0], 2
    rest = image[:2]
    while image[at + 1] != 0xDA:
        end = at + 2 + int.from_bytes(image[at + 2 : at + 4], "big")
        rest += b"" if image[at + 1] == 0xC4 else image[at:end]
        at = end
    rest += image[at:]
    assert len(rest) < len(image) - 400
    assert split(rest) == [rest]
    with Image.open(io.BytesIO(rest)) as decoded, Image.open(io.BytesIO(image)) as expected:
        assert np.array_equal(np.asarray(decoded), np.asarray(expected))


# --- the newest one -------------------------------------------------------------------------------------------------


@pytest.fixture
def pipe():
    """A stream and the end of a pipe that a test writes to, which must be closed."""
    reader, writer = os.pipe()
    with open(writer, "wb", buffering=0) as file:
        yield MjpegStream(reader, "stdin"), file


def test_frames_that_come_while_nobody_asks_are_skipped(tmp_path):
    (tmp_path / "stream").write_bytes(b"".join(IMAGES))
    with open(tmp_path / "stream", "rb") as file:
        stream = MjpegStream(file.fileno(), "stdin")
        stream._reader.join()
        assert stream.next(Stop()).image == IMAGES[-1]
        assert stream.next(Stop()) is None


def test_a_frame_is_given_as_soon_as_it_is_whole(pipe):
    stream, writer = pipe
    stop = Stop()
    writer.write(IMAGES[0][:-1])
    timer = threading.Timer(0.05, stop.set)
    timer.start()
    assert stream.next(stop) is None  # nothing yet; and a stop ends the waiting
    writer.write(IMAGES[0][-1:])
    assert stream.next(Stop()).image == IMAGES[0]
    writer.write(IMAGES[1][:50])
    writer.close()
    assert stream.next(Stop()) is None


def test_a_stream_without_any_image_is_said_to_be_one_once(pipe):
    stream, writer = pipe
    writer.write(b"no images at all")
    writer.close()
    with pytest.raises(InputError, match="stdin: holds no JPEG image"):
        stream.next(Stop())
    assert stream.next(Stop()) is None


def test_a_stream_that_cannot_be_read(tmp_path):
    folder = os.open(tmp_path, os.O_RDONLY)
    with pytest.raises(InputError, match="stdin: cannot be read .is a directory"):
        MjpegStream(folder, "stdin").next(Stop())
    os.close(folder)


def test_a_stream_that_breaks_off_is_not_taken_for_one_that_ends():
    reader, writer = socket.socketpair()
    reader.send(b"never read")
    writer.send(IMAGES[0])
    writer.close()
    with reader:
        stream = MjpegStream(reader.fileno(), "stdin")
        assert stream.next(Stop()).image == IMAGES[0]
        with pytest.raises(InputError, match="stdin: cannot be read .connection reset"):
            stream.next(Stop())
        assert stream.next(Stop()) is None


def test_the_command_captions_a_stream(tmp_path):
    file = io.BytesIO()
    with Image.open(EXAMPLES / "flag.png") as image:
        image.convert("RGB").save(file, "JPEG", quality=95)
    process = embernet("caption", "--mjpeg", "-", "-m", "spark", "--json", "-q", stdin=subprocess.PIPE)
    out, err = process.communicate(file.getvalue() + IMAGES[0][:90], timeout=60)
    assert (process.returncode, err) == (0, b"")
    (record,) = [json.loads(line) for line in out.splitlines()]
    assert record["source"] == "stdin"
    assert record["text"] == load("spark").caption(file.getvalue()).text
    process = embernet("caption", "--mjpeg", "-m", "spark", "-q", stdin=subprocess.PIPE)
    out, err = process.communicate(b"nothing", timeout=60)
    assert (process.returncode, out) == (3, b"")
    assert err == b"embernet: stdin: holds no JPEG image\n"  # and nothing of trying again
