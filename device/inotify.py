"""The kernel's announcements of what happens in a folder: the few calls of inotify that we need."""

import ctypes
import errno
import os
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

_MOVED_FROM, _MOVED_TO, _CLOSE_WRITE, _DELETE = 0x40, 0x80, 0x8, 0x200
_DELETE_SELF, _MOVE_SELF, _UNMOUNT, _IGNORED, _OVERFLOW = 0x400, 0x800, 0x2000, 0x8000, 0x4000
_ONLY_DIRECTORY, _IS_DIRECTORY = 0x0100_0000, 0x4000_0000
_WANTED = _MOVED_FROM | _MOVED_TO | _CLOSE_WRITE | _DELETE | _DELETE_SELF | _MOVE_SELF | _ONLY_DIRECTORY
_HEAD = struct.Struct("iIII")  # of struct inotify_event: wd, mask, cookie, len; the name follows
_BUFFER = 1 << 16
# No inotify in this kernel, or none left for this user.
_NOT_TO_BE_HAD = {errno.ENOSYS, errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.ENOSPC}


@dataclass(frozen=True)
class Announcement:
    """name: of a file; "" if it is about the folder. has_come: the file is complete, else it is gone.

    is_lost: the folder is gone or is another one now. is_missed: there was more than the kernel could keep.
    """

    name: str = ""
    has_come: bool = False
    is_lost: bool = False
    is_missed: bool = False


class FolderEvents:
    """Announcements about one folder, from now on. OSError if it cannot be watched."""

    def __init__(self, folder: Path) -> None:
        libc = ctypes.CDLL(None, use_errno=True)
        self.file = _checked(libc.inotify_init1(os.O_NONBLOCK | os.O_CLOEXEC), folder)
        try:
            _checked(libc.inotify_add_watch(self.file, os.fsencode(folder), _WANTED), folder)
        except OSError:
            os.close(self.file)
            raise

    def read(self) -> Iterator[Announcement]:
        """What has been announced and not been read yet; waits for nothing."""
        while True:
            try:
                events = os.read(self.file, _BUFFER)
            except BlockingIOError:
                return
            at = 0
            while at < len(events):
                _, mask, _, length = _HEAD.unpack_from(events, at)
                at += _HEAD.size
                name = os.fsdecode(events[at : at + length].rstrip(b"\0"))
                at += length
                if mask & _OVERFLOW:
                    yield Announcement(is_missed=True)
                elif mask & (_DELETE_SELF | _MOVE_SELF | _UNMOUNT | _IGNORED):
                    yield Announcement(is_lost=True)
                elif not mask & _IS_DIRECTORY:
                    yield Announcement(name, has_come=bool(mask & (_CLOSE_WRITE | _MOVED_TO)))

    def close(self) -> None:
        os.close(self.file)


def open_folder_events(folder: Path) -> FolderEvents | None:
    """Announcements about a folder; None where the kernel gives none. OSError if there is no such folder."""
    try:
        return FolderEvents(folder)
    except OSError as error:
        if error.errno in _NOT_TO_BE_HAD:
            return None
        raise


def _checked(result: int, folder: Path) -> int:
    if result < 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()), str(folder))
    return result
