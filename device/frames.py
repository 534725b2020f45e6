"""What a source of images gives: frames, and a way to stop waiting for them."""

import os
import select
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class Frame:
    """One image that nobody has looked at yet.

    image: an encoded file, the path of one, or RGB pixels (height, width, 3). taken: when the source had it, with the
    offset of the local time. modified_unix_ms: of a path, when the file was last written; None else.
    """

    image: bytes | Path | NDArray[np.uint8]
    taken: datetime
    modified_unix_ms: int | None = None

    @property
    def path(self) -> Path | None:
        return self.image if isinstance(self.image, Path) else None


class Stop:
    """Ends every wait of a source, once it is asked for: from a signal handler or from another thread."""

    def __init__(self) -> None:
        self._event = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        self._is_set = False

    def __del__(self) -> None:
        os.close(self._event)

    def set(self) -> None:
        self._is_set = True
        os.eventfd_write(self._event, 1)

    def is_set(self) -> bool:
        return self._is_set

    def wait(self, seconds: float | None, *files: int) -> list[int]:
        """The files that can be read; none if none can after so many seconds, or if it is time to stop."""
        poll = select.poll()
        for file in (self._event, *files):
            poll.register(file, select.POLLIN)
        ready = [file for file, _ in poll.poll(None if seconds is None else max(seconds, 0.0) * 1e3)]
        return [] if self._is_set else ready


class FrameSource(Protocol):
    """A camera, a stream or a folder. name: what records and messages call it."""

    name: str

    def next(self, stop: Stop) -> Frame | None:
        """Wait for the next frame; None if there will be none, or if it is time to stop.

        EmbernetError if something failed that may work when it is tried again, InputError if it never will.
        """

    def close(self) -> None:
        """Let go of the device, the folder or the stream."""


def now() -> datetime:
    """The local time with its offset."""
    return datetime.now().astimezone()
