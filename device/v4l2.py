"""A camera that Linux shows as /dev/videoN, a webcam for example: captured with the kernel's interface V4L2 itself."""

import ctypes
import fcntl
import mmap
import os
import stat
import time
from pathlib import Path
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from embernet.device.camera import HEIGHT, WIDTH
from embernet.device.frames import Frame, Stop, now
from embernet.errors import EmbernetError, InputError, system_reason

_Structure = TypeVar("_Structure")

TIMEOUT_S = 5.0
_BUFFERS = 2
_STRIP = 16  # rows whose colors are computed at once: those of a whole picture, in 32 bits, took 10 MB
# A webcam needs some pictures to find its exposure.
_SKIPPED_AT_START = 5

# --- what linux/videodev2.h defines ---------------------------------------------------------------------------------

_CAPTURE, _MMAP, _ANY_FIELD = 1, 1, 0
_CAN_CAPTURE, _CAN_STREAM, _HAS_DEVICE_CAPABILITIES = 0x1, 0x0400_0000, 0x8000_0000
_IS_DAMAGED = 0x40  # V4L2_BUF_FLAG_ERROR


class Capability(ctypes.Structure):
    _fields_ = [
        ("driver", ctypes.c_char * 16),
        ("card", ctypes.c_char * 32),
        ("bus_info", ctypes.c_char * 32),
        ("version", ctypes.c_uint32),
        ("capabilities", ctypes.c_uint32),
        ("device_capabilities", ctypes.c_uint32),
        ("reserved", ctypes.c_uint32 * 3),
    ]


class PixelFormat(ctypes.Structure):
    _fields_ = [
        ("width", ctypes.c_uint32),
        ("height", ctypes.c_uint32),
        ("pixelformat", ctypes.c_uint32),
        ("field", ctypes.c_uint32),
        ("bytesperline", ctypes.c_uint32),
        ("sizeimage", ctypes.c_uint32),
        ("colorspace", ctypes.c_uint32),
        ("rest", ctypes.c_uint32 * 5),
    ]


class _FormatUnion(ctypes.Union):
    # Its other members hold pointers.
    _fields_ = [("pixels", PixelFormat), ("size", ctypes.c_uint8 * 200), ("alignment", ctypes.c_void_p)]


class Format(ctypes.Structure):
    _fields_ = [("type", ctypes.c_uint32), ("format", _FormatUnion)]


class RequestBuffers(ctypes.Structure):
    _fields_ = [
        ("count", ctypes.c_uint32),
        ("type", ctypes.c_uint32),
        ("memory", ctypes.c_uint32),
        ("reserved", ctypes.c_uint32 * 2),
    ]


class Buffer(ctypes.Structure):
    _fields_ = [
        ("index", ctypes.c_uint32),
        ("type", ctypes.c_uint32),
        ("bytesused", ctypes.c_uint32),
        ("flags", ctypes.c_uint32),
        ("field", ctypes.c_uint32),
        ("timestamp", ctypes.c_long * 2),
        ("timecode", ctypes.c_uint32 * 4),
        ("sequence", ctypes.c_uint32),
        ("memory", ctypes.c_uint32),
        ("offset", ctypes.c_ulong),  # of a union with pointers
        ("length", ctypes.c_uint32),
        ("reserved", ctypes.c_uint32 * 2),
    ]


def _request(direction: int, number: int, structure: type) -> int:
    return direction << 30 | ctypes.sizeof(structure) << 16 | ord("V") << 8 | number


_WRITE, _READ = 1, 2
QUERYCAP = _request(_READ, 0, Capability)
S_FMT = _request(_READ | _WRITE, 5, Format)
REQBUFS = _request(_READ | _WRITE, 8, RequestBuffers)
QUERYBUF = _request(_READ | _WRITE, 9, Buffer)
QBUF = _request(_READ | _WRITE, 15, Buffer)
DQBUF = _request(_READ | _WRITE, 17, Buffer)
STREAMON = _request(_WRITE, 18, ctypes.c_int)


def fourcc(name: str) -> int:
    """The number of a pixel format: "YUYV", "MJPG"."""
    return int.from_bytes(name.encode("ascii"), "little")


_JPEG_FORMATS, _YUYV = (fourcc("MJPG"), fourcc("JPEG")), fourcc("YUYV")

# --- the camera -----------------------------------------------------------------------------------------------------


class V4l2Camera:
    """Captures from a device as JPEG if it can, else as YUYV pixels. The device is opened for the first frame.

    A frame is the one that the camera takes when it is asked for, or the next; pictures in between are skipped. After a
    failure the next frame opens the device anew.
    """

    def __init__(self, device: str | os.PathLike[str], timeout_s: float = TIMEOUT_S) -> None:
        self.name = str(device)
        self._timeout_s = timeout_s
        self._file = -1
        self._buffers: list[mmap.mmap] = []
        self._pixels = PixelFormat()
        try:
            is_device = stat.S_ISCHR(Path(device).stat().st_mode)
        except OSError as error:
            raise InputError(f"{device}: no such camera ({system_reason(error)})", hint="ls /dev/video*") from None
        if not is_device:
            raise InputError(f"{device}: not a camera (expected a device such as /dev/video0)")

    def next(self, stop: Stop) -> Frame | None:
        deadline = time.monotonic() + self._timeout_s
        try:
            skipped = 0
            if self._file < 0:
                self._open()
                skipped = _SKIPPED_AT_START
            else:
                self._give_back_ready(stop)
            while not stop.is_set():
                if not stop.wait(deadline - time.monotonic(), self._file):
                    break
                buffer = self._exchange(DQBUF, Buffer(type=_CAPTURE, memory=_MMAP))
                try:
                    if not skipped and buffer.bytesused and not buffer.flags & _IS_DAMAGED:
                        return Frame(self._image(buffer), now())
                finally:
                    self._exchange(QBUF, buffer)
                skipped = max(skipped - 1, 0)
        except OSError as error:
            self.close()
            raise EmbernetError(f"{self.name}: {system_reason(error)}") from None
        except EmbernetError:
            self.close()
            raise
        if stop.is_set():
            return None
        self.close()
        raise EmbernetError(f"{self.name}: gave no picture within {self._timeout_s:g} s")

    def close(self) -> None:
        if self._file < 0:
            return
        for buffer in self._buffers:
            buffer.close()
        self._buffers = []
        os.close(self._file)  # ends the stream, too
        self._file = -1

    def _open(self) -> None:
        """Open the device and start the stream."""
        self._file = os.open(self.name, os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC)
        capability = self._exchange(QUERYCAP, Capability())
        can = capability.capabilities
        if can & _HAS_DEVICE_CAPABILITIES:
            can = capability.device_capabilities
        if not can & _CAN_CAPTURE or not can & _CAN_STREAM:
            raise EmbernetError(f"{self.name}: not a camera ({capability.card.decode(errors='replace')})")
        self._pixels = self._choose_format()
        for index in range(self._exchange(REQBUFS, RequestBuffers(_BUFFERS, _CAPTURE, _MMAP)).count):
            buffer = self._exchange(QUERYBUF, Buffer(index=index, type=_CAPTURE, memory=_MMAP))
            self._buffers.append(mmap.mmap(self._file, buffer.length, offset=buffer.offset))
            self._exchange(QBUF, buffer)
        self._exchange(STREAMON, ctypes.c_int(_CAPTURE))

    def _choose_format(self) -> PixelFormat:
        """The format that the device makes of our wish; EmbernetError if it is none that we can read."""
        for wish in (*_JPEG_FORMATS, _YUYV):
            wanted = Format(type=_CAPTURE)
            wanted.format.pixels = PixelFormat(WIDTH, HEIGHT, wish, _ANY_FIELD)
            pixels: PixelFormat = self._exchange(S_FMT, wanted).format.pixels
            if pixels.pixelformat in (*_JPEG_FORMATS, _YUYV):
                return pixels
        found = pixels.pixelformat.to_bytes(4, "little").decode("ascii", "replace")
        raise EmbernetError(
            f"{self.name}: gives no pictures that can be read (found {found}, expected MJPG or YUYV)",
            hint="the camera module of a Raspberry Pi is used without naming a device",
        )

    def _give_back_ready(self, stop: Stop) -> None:
        """Let the camera fill its buffers again: what lies ready is of the time when nobody asked."""
        for _ in self._buffers:
            if stop.wait(0.0, self._file):
                self._exchange(QBUF, self._exchange(DQBUF, Buffer(type=_CAPTURE, memory=_MMAP)))

    def _image(self, buffer: Buffer) -> bytes | NDArray[np.uint8]:
        data = self._buffers[buffer.index][: buffer.bytesused]
        if self._pixels.pixelformat in _JPEG_FORMATS:
            return data
        width, height = self._pixels.width, self._pixels.height
        stride = self._pixels.bytesperline or 2 * width
        if len(data) < stride * (height - 1) + 2 * width:
            raise EmbernetError(f"{self.name}: the picture is cut (found {len(data)} bytes)")
        rows = np.frombuffer(data.ljust(stride * height, b"\0"), np.uint8, stride * height).reshape(height, stride)
        return yuyv_to_rgb(rows[:, : 2 * width])

    def _exchange(self, request: int, structure: _Structure) -> _Structure:
        """One request to the driver, which fills in the structure."""
        fcntl.ioctl(self._file, request, structure)  # type: ignore[call-overload]
        return structure


def yuyv_to_rgb(rows: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """(height, 2 x width) bytes Y U Y V, BT.601 of limited range as webcams give it -> RGB (height, width, 3)."""
    height, width = rows.shape[0], rows.shape[1] // 2
    rgb = np.empty((height, width, 3), np.uint8)
    for top in range(0, height, _STRIP):
        strip = rows[top : top + _STRIP]
        luma = (strip[:, 0::2].astype(np.int32) - 16) * 298 + 128
        blue, red = (strip[:, start::4].astype(np.int32).repeat(2, axis=1) - 128 for start in (1, 3))
        for channel, sum_ in enumerate((luma + 409 * red, luma - 100 * blue - 208 * red, luma + 516 * blue)):
            rgb[top : top + _STRIP, :, channel] = np.clip(sum_ >> 8, 0, 255)
    return rgb
