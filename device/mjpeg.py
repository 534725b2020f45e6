"""A stream of JPEG images, one after the other: `rpicam-vid --codec mjpeg`, `ffmpeg -f mjpeg`, network cameras."""

import os
import re
import threading
from collections.abc import Iterator

from embernet.device.frames import Frame, Stop, now
from embernet.errors import InputError, system_reason
from embernet.runtime.image import MAX_FILE_BYTES

_START = b"\xff\xd8\xff"
_SOI, _EOI, _SOS, _FILL = 0xD8, 0xD9, 0xDA, 0xFF
_WITHOUT_LENGTH = {0x01, *range(0xD0, 0xD8)}
# Compressed data ends at a marker; zero bytes and restarts belong to it.
_AFTER_SCAN = re.compile(rb"\xff[^\x00\xd0-\xd7\xff]")
_CHUNK = 1 << 16


class JpegSplitter:
    """Finds whole JPEG images in a stream, whatever lies between them; thumbnails inside of them are no images.

    An image that is cut off or makes no sense is dropped.
    """

    def __init__(self) -> None:
        self._data = bytearray()  # begins with an image, or holds none yet
        self._at = 0  # so far its markers were followed
        self._in_scan = False

    def feed(self, data: bytes) -> Iterator[bytes]:
        """Take more of the stream; gives the images that are whole now."""
        self._data += data
        while self._find_start():
            end = self._follow()
            if end is None:
                if len(self._data) > MAX_FILE_BYTES:
                    self._drop(len(_START))
                    continue
                return
            length, is_whole = end
            if is_whole:
                yield bytes(self._data[:length])
            self._drop(length)

    def _find_start(self) -> bool:
        """Let the data begin with an image; False if none has begun."""
        if self._data.startswith(_START):
            return True
        start = self._data.find(_START)
        self._drop(start if start >= 0 else max(len(self._data) - len(_START) + 1, 0))
        return start >= 0

    def _follow(self) -> tuple[int, bool] | None:
        """Where the image ends, and whether it is whole or stops making sense there; None if that is yet to come."""
        data = self._data
        self._at = max(self._at, 2)
        while True:
            if self._in_scan:
                match = _AFTER_SCAN.search(data, self._at)
                if match is None:
                    self._at = max(self._at, len(data) - 1)
                    return None
                self._at, self._in_scan = match.start(), False
            if len(data) < self._at + 2:
                return None
            marker = data[self._at + 1]
            if data[self._at] != _FILL or marker == _SOI:
                return self._at, False
            if marker == _EOI:
                return self._at + 2, True
            if marker == _FILL:
                self._at += 1
            elif marker in _WITHOUT_LENGTH:
                self._at += 2
            elif len(data) < self._at + 4:
                return None
            else:
                self._at += 2 + int.from_bytes(data[self._at + 2 : self._at + 4], "big")
                self._in_scan = marker == _SOS

    def _drop(self, count: int) -> None:
        del self._data[:count]
        self._at, self._in_scan = 0, False


class MjpegStream:
    """The newest whole image of a stream; those that come while nobody asks are skipped.

    file: of a pipe or a file, read by a thread of its own until it ends. The last image is never skipped.
    """

    def __init__(self, file: int, name: str) -> None:
        self.name = name
        self._file = file
        self._newest: Frame | None = None
        self._has_ended = False
        self._problem: str | None = None
        self._lock = threading.Lock()
        self._news = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        self._reader = threading.Thread(target=self._read, name=f"reading {name}", daemon=True)
        self._reader.start()

    def next(self, stop: Stop) -> Frame | None:
        while not stop.is_set():
            with self._lock:
                frame, self._newest = self._newest, None
                has_ended = self._has_ended
            if frame is not None:
                return frame
            if has_ended:
                problem, self._problem = self._problem, None  # said once
                if problem:
                    raise InputError(f"{self.name}: {problem}")
                return None
            if stop.wait(None, self._news):
                os.eventfd_read(self._news)
        return None

    def close(self) -> None:
        """The thread goes on until the stream ends: reading cannot be interrupted."""

    def _read(self) -> None:
        splitter = JpegSplitter()
        is_empty = True
        try:
            while data := os.read(self._file, _CHUNK):
                for image in splitter.feed(data):
                    is_empty = False
                    with self._lock:
                        self._newest = Frame(image, now())
                    os.eventfd_write(self._news, 1)
            self._problem = "holds no JPEG image" if is_empty else None
        except OSError as error:
            self._problem = f"cannot be read ({system_reason(error)})"
        with self._lock:
            self._has_ended = True
        os.eventfd_write(self._news, 1)
