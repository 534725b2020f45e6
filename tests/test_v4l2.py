"""A V4L2 camera: the kernel's structures byte by byte, and the order of requests, answered by a stand-in driver."""

import ctypes
import errno
import io
import os
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from embernet.device import v4l2
from embernet.device.frames import Stop
from embernet.device.v4l2 import Buffer, Capability, Format, PixelFormat, V4l2Camera, fourcc, yuyv_to_rgb
from embernet.errors import EmbernetError, InputError

PAGE = 4096


def test_requests_have_the_numbers_of_the_kernel():
    """As in linux/videodev2.h on 64-bit machines; the size of a structure is a part of its number."""
    assert v4l2.QUERYCAP == 0x80685600
    assert v4l2.S_FMT == 0xC0D05605
    assert v4l2.REQBUFS == 0xC0145608
    assert v4l2.QUERYBUF == 0xC0585609
    assert v4l2.QBUF == 0xC058560F
    assert v4l2.DQBUF == 0xC0585611
    assert v4l2.STREAMON == 0x40045612
    assert ctypes.sizeof(PixelFormat) == 48
    assert fourcc("YUYV") == 0x56595559


def test_fields_lie_where_the_kernel_has_them():
    places = {name: getattr(Buffer, name).offset for name, *_ in Buffer._fields_}
    expected = {"bytesused": 8, "flags": 12, "field": 16, "timestamp": 24, "sequence": 56, "memory": 60, "offset": 64}
    assert expected.items() <= places.items()
    assert places["length"] == 72
    assert Format.format.offset == 8
    assert (Capability.capabilities.offset, Capability.device_capabilities.offset) == (84, 88)
    assert (PixelFormat.pixelformat.offset, PixelFormat.bytesperline.offset) == (8, 16)


# --- pixels ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("y", "u", "v", "rgb"),
    [
        (16, 128, 128, (0, 0, 0)),
        (235, 128, 128, (255, 255, 255)),
        (126, 128, 128, (128, 128, 128)),
        (81, 90, 240, (255, 0, 0)),  # the pure colors of BT.601
        (145, 54, 34, (0, 255, 0)),
        (41, 240, 110, (0, 0, 255)),
        (0, 0, 0, (0, 135, 0)),
        (255, 255, 255, (255, 125, 255)),
    ],
)
def test_colors_of_yuyv(y, u, v, rgb):
    rows = np.tile(np.array([y, u, y, v], np.uint8), (3, 2))
    found = yuyv_to_rgb(rows)
    assert (found.shape, found.dtype) == ((3, 4, 3), np.uint8)
    assert np.abs(found.astype(int) - rgb).max() <= 1


def test_two_pixels_share_their_color_and_nothing_else():
    rows = np.array([[16, 128, 235, 128, 81, 90, 81, 240]], np.uint8)
    assert yuyv_to_rgb(rows)[0].tolist()[:2] == [[0, 0, 0], [255, 255, 255]]
    assert np.abs(yuyv_to_rgb(rows)[0, 2:].astype(int) - (255, 0, 0)).max() <= 1


def test_a_picture_is_converted_in_little_memory_and_in_whichever_pieces():
    rows = np.random.default_rng(0).integers(0, 256, (486, 2 * 640), np.uint8)
    tracemalloc.start()
    found = yuyv_to_rgb(rows)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < found.nbytes + 1_000_000
    np.testing.assert_array_equal(found, np.concatenate([yuyv_to_rgb(rows[:7]), yuyv_to_rgb(rows[7:])]))


# --- the camera -----------------------------------------------------------------------------------------------------


class Driver:
    """Stands in for a driver: answers requests, and has every buffer that it was given filled at once.

    The device is a file whose pages are the buffers. Picture number n is made by `picture(n)`.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        path.write_bytes(b"\0" * 8 * PAGE)
        self.formats = ("YUYV",)
        self.capabilities = 0x84200001, 0x04200001
        self.size = (8, 4)
        self.stride = 16
        self.queued: list[int] = []
        self.pictures = 0
        self.damaged: set[int] = set()
        self.errors: dict[int, int] = {}
        self.requests: list[int] = []
        self.chosen = ""
        self.gives_nothing = False

    def picture(self, number: int) -> bytes:
        return bytes([16 + number, 128] * (self.stride // 2)) * self.size[1]

    def ioctl(self, file: int, request: int, value) -> int:
        self.requests.append(request)
        if number := self.errors.pop(request, None):
            raise OSError(number, os.strerror(number))
        if request == v4l2.QUERYCAP:
            value.card, (value.capabilities, value.device_capabilities) = b"stand-in", self.capabilities
        elif request == v4l2.S_FMT:
            pixels = value.format.pixels
            wanted = pixels.pixelformat.to_bytes(4, "little").decode()
            self.chosen = wanted if wanted in self.formats else self.formats[0]
            pixels.pixelformat, pixels.bytesperline = fourcc(self.chosen), self.stride
            pixels.width, pixels.height = self.size
        elif request == v4l2.REQBUFS:
            assert (value.type, value.memory) == (1, 1)
        elif request == v4l2.QUERYBUF:
            value.length, value.offset = PAGE, value.index * PAGE
        elif request == v4l2.QBUF:
            assert value.index not in self.queued
            self.queued.append(value.index)
        elif request == v4l2.DQBUF:
            assert v4l2.STREAMON in self.requests
            value.index, value.flags = self.queued.pop(0), 0x40 if self.pictures in self.damaged else 0
            data = self.picture(self.pictures)
            with open(self.path, "r+b") as device:
                device.seek(value.index * PAGE)
                device.write(data)
            value.bytesused = len(data)
            self.pictures += 1
        return 0


@pytest.fixture
def driver(tmp_path, monkeypatch) -> Driver:
    stand_in = Driver(tmp_path / "video0")
    monkeypatch.setattr(v4l2.fcntl, "ioctl", stand_in.ioctl)
    monkeypatch.setattr(v4l2.stat, "S_ISCHR", lambda mode: True)
    # A regular file is always ready to be read; a device only when a picture is.
    wait = Stop.wait

    def wait_for_picture(stop: Stop, seconds: float | None, *files: int) -> list[int]:
        return wait(stop, seconds, *(files if stand_in.queued and not stand_in.gives_nothing else ()))

    monkeypatch.setattr(Stop, "wait", wait_for_picture)
    return stand_in


def number(frame) -> int:
    """Which picture of the stand-in this is: its grey value, back from RGB."""
    return round(int(frame.image[0, 0, 0]) * 219 / 255)


def test_pictures_come_as_rgb_after_the_first_ones(driver):
    camera = V4l2Camera(driver.path)
    frame = camera.next(Stop())
    assert frame.image.shape == (4, 8, 3)
    assert number(frame) == 5
    assert len(driver.queued) == 2  # all buffers are the driver's again
    camera.close()


def test_pictures_of_the_time_when_nobody_asked_are_skipped(driver):
    camera = V4l2Camera(driver.path)
    camera.next(Stop())
    assert number(camera.next(Stop())) == 6 + 2
    assert number(camera.next(Stop())) == 9 + 2
    camera.close()


def test_rows_may_be_longer_than_their_pixels(driver):
    driver.stride = 24
    driver.picture = lambda number: b"".join(bytes([16 + 20 * row, 128] * 8 + [255] * 8) for row in range(4))[:-8]
    camera = V4l2Camera(driver.path)
    frame = camera.next(Stop())
    camera.close()
    assert [round(int(value) * 219 / 255) for value in frame.image[:, 7, 1]] == [0, 20, 40, 60]


def test_jpeg_is_taken_as_it_comes_where_there_is_a_choice(driver):
    file = io.BytesIO()
    Image.new("RGB", (8, 4), "red").save(file, "JPEG")
    driver.formats = ("YUYV", "MJPG")
    driver.picture = lambda number: file.getvalue()
    camera = V4l2Camera(driver.path)
    assert camera.next(Stop()).image == file.getvalue()
    assert driver.chosen == "MJPG"
    camera.close()


def test_a_damaged_picture_is_skipped(driver):
    driver.damaged = {5, 6}
    camera = V4l2Camera(driver.path)
    assert number(camera.next(Stop())) == 7
    camera.close()


def test_a_camera_that_fails_is_opened_anew(driver):
    camera = V4l2Camera(driver.path)
    camera.next(Stop())
    driver.errors[v4l2.DQBUF] = errno.ENODEV
    with pytest.raises(EmbernetError, match="video0: no such device"):
        camera.next(Stop())
    driver.queued.clear()
    driver.requests.clear()
    driver.errors[v4l2.S_FMT] = errno.EBUSY
    with pytest.raises(EmbernetError, match="video0: device or resource busy"):
        camera.next(Stop())
    assert camera.next(Stop()) is not None
    assert driver.requests.count(v4l2.STREAMON) == 1
    camera.close()


def test_a_camera_without_pictures_is_given_up_for_now(driver):
    driver.gives_nothing = True
    with pytest.raises(EmbernetError, match="video0: gave no picture within 0.05 s"):
        V4l2Camera(driver.path, timeout_s=0.05).next(Stop())


def test_it_is_not_waited_for_when_it_is_time_to_stop(driver):
    stop = Stop()
    stop.set()
    assert V4l2Camera(driver.path).next(stop) is None


@pytest.mark.parametrize(
    ("what", "value", "problem"),
    [
        ("formats", ("pRAA",), "video0: gives no pictures that can be read .found pRAA, expected MJPG or YUYV"),
        ("capabilities", (0x84200001, 0x04200000), "video0: not a camera .stand-in"),
        ("capabilities", (0x00000001, 0), "video0: not a camera .stand-in"),
        ("picture", lambda number: b"\x10\x80" * 20, "video0: the picture is cut .found 40 bytes"),
    ],
)
def test_what_cannot_be_used_is_one_sentence(driver, what, value, problem):
    setattr(driver, what, value)
    with pytest.raises(EmbernetError, match=problem):
        V4l2Camera(driver.path).next(Stop())


def test_devices_that_are_none(tmp_path):
    with pytest.raises(InputError, match="video9: no such camera .no such file"):
        V4l2Camera(tmp_path / "video9")
    (tmp_path / "video8").write_bytes(b"")
    with pytest.raises(InputError, match="video8: not a camera"):
        V4l2Camera(tmp_path / "video8")
    with pytest.raises(EmbernetError, match="/dev/null: inappropriate ioctl for device"):
        V4l2Camera("/dev/null").next(Stop())
