"""A folder into which image files come: each of them is given once, when it is complete."""

import fcntl
import os
import signal
import stat
import time
from collections import OrderedDict
from collections.abc import Iterable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from embernet.device.frames import Frame, Stop, now
from embernet.device.inotify import FolderEvents, open_folder_events
from embernet.errors import EmbernetError, InputError, system_reason
from embernet.image_files import IMAGE_SUFFIXES

# A file that was there before, or where there are no announcements, is complete when it rests for so long.
SETTLED_S = 2.0
POLL_S = 1.0
# What the kernel does not see (hard links, network file systems) is found by looking, and has to rest as long.
LOOK_AGAIN_S = 60.0
_SET_SIGNAL = 10  # F_SETSIG
# They may refuse a lease on a file that nobody writes, for ever.
_NETWORK_FILE_SYSTEMS = ("nfs", "nfs4", "cifs", "smb3")
_LARGEST_SHARE = 0.1  # of the time may be spent with looking


class WatchedFolder:
    """First the images that are in a folder, the oldest first, then those that come; none is skipped.

    A file is complete when whoever wrote it closes it or moves it here (inotify). One that was there before, or in a
    kernel without inotify, when it has not been written for two seconds and, as far as we may know, nobody has it open
    to write; one that is not announced, after a minute. Names that begin with a dot or end unlike an image's (`.part`,
    `.tmp`) are of no interest. A file that is written again is given again.
    done: the files that need not be given, and when they were written (`modified_unix_ms`).
    Keeps about 200 bytes for every image that is in the folder.
    """

    def __init__(self, folder: str | os.PathLike[str], done: Mapping[str, int] | None = None) -> None:
        self.folder = Path(os.path.realpath(folder))  # `resolve` fails on links in a circle
        self.name = str(self.folder)
        if not self.folder.is_dir():
            raise InputError(f"{folder}: no such folder")
        self._given = dict(done or {})
        self._arrived: OrderedDict[str, None] = OrderedDict()  # a name that comes again keeps its place
        self._unsettled: dict[tuple[str, int, int], float] = {}  # name, time, size; since when it rests
        self._events: FolderEvents | None = None
        self._opened: os.stat_result | None = None
        self._has_leases = True
        self._look_at = 0.0  # by the monotonic clock

    def next(self, stop: Stop) -> Frame | None:
        while not stop.is_set():
            try:
                self._keep_up()
            except OSError as error:
                self.close()
                raise EmbernetError(f"{self.folder}: cannot be watched ({system_reason(error)})") from None
            while self._arrived:
                if frame := self._frame(self._arrived.popitem(last=False)[0]):
                    return frame
            files = () if self._events is None else (self._events.file,)
            stop.wait(self._look_at - time.monotonic(), *files)
        return None

    def close(self) -> None:
        self._opened = None
        if self._events is not None:
            self._events.close()
            self._events = None

    def _keep_up(self) -> None:
        """Learn of new files: from the kernel, and by looking when it is time for that."""
        is_due = time.monotonic() >= self._look_at
        if self._opened is not None and is_due and not os.path.samestat(self._opened, self.folder.stat()):
            self.close()  # another folder has this place now: a stick that was mounted
        if self._opened is None:
            self._opened = self.folder.stat()
            self._has_leases = _file_system(self._opened.st_dev) not in _NETWORK_FILE_SYSTEMS
            self._events = open_folder_events(self.folder)  # before looking: nothing comes in between
            self._look(only_new_names=False)
        for event in () if self._events is None else self._events.read():
            if event.is_lost:
                raise FileNotFoundError(0, "it is gone", self.name)
            if event.is_missed:
                self._look(only_new_names=False)
            elif event.has_come and _is_image_name(event.name):
                self._arrived.setdefault(event.name)
            elif not event.has_come:
                self._given.pop(event.name, None)
        if time.monotonic() >= self._look_at:
            self._look(only_new_names=self._events is not None)

    def _look(self, only_new_names: bool) -> None:
        """Go through the folder: files that are new and complete have arrived; those that are gone are forgotten."""
        started = time.monotonic()
        with os.scandir(self.folder) as entries:
            names = {entry.name for entry in entries if _is_image_name(entry.name)}
        self._given = {name: modified for name, modified in self._given.items() if name in names}
        settled_s = LOOK_AGAIN_S if only_new_names else SETTLED_S  # what is being written now will be announced
        arrived, unsettled = [], {}
        for name in names:
            if only_new_names and name in self._given:
                continue
            status = self._status(name)
            if status is None or self._given.get(name) == _modified_unix_ms(status):
                continue
            state = (name, status.st_mtime_ns, status.st_size)
            age = max(time.time() - status.st_mtime, 0.0)  # below 0 where the clock was set back
            since = self._unsettled.get(state, started - age)
            if started - since >= settled_s and not (self._has_leases and _is_being_written(self.folder / name)):
                arrived.append((status.st_mtime_ns, name))
            else:
                unsettled[state] = since
        for _, name in sorted(arrived):
            self._arrived.setdefault(name)
        self._unsettled = unsettled
        pause = LOOK_AGAIN_S if self._events is not None and not unsettled else POLL_S
        took = time.monotonic() - started
        self._look_at = started + took + max(pause, took / _LARGEST_SHARE)

    def _frame(self, name: str) -> Frame | None:
        """The file of this name, unless it is gone or was given already."""
        status = self._status(name)
        if status is None:
            return None
        modified = _modified_unix_ms(status)
        if self._given.get(name) == modified:
            return None
        self._given[name] = modified
        return Frame(self.folder / name, now(), modified)

    def _status(self, name: str) -> os.stat_result | None:
        """Of a file, links followed; None if it is gone or no regular file."""
        try:
            status = (self.folder / name).stat()
        except OSError:
            return None
        return status if stat.S_ISREG(status.st_mode) else None


def done_files(folder: str | os.PathLike[str], records: Iterable[Mapping[str, Any]]) -> dict[str, int]:
    """What of a folder has records already, as `WatchedFolder` takes it."""
    start = f"{os.path.realpath(folder)}/"
    done = {}
    for record in records:
        match record.get("input"):
            case {"path": str(path), "modified_unix_ms": int(modified)} if path.startswith(start):
                done[path.removeprefix(start)] = modified
    return done


def _is_image_name(name: str) -> bool:
    return not name.startswith(".") and Path(name).suffix.lower() in IMAGE_SUFFIXES


def _is_being_written(path: Path) -> bool:
    """Whether somebody has a file open for writing; False, too, if the kernel does not tell us.

    It gives a lease only on a file that nobody writes, and only to its owner or to root.
    """
    try:
        file = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError:
        return False
    try:
        fcntl.fcntl(file, _SET_SIGNAL, signal.SIGURG)  # which does no harm if a writer comes this very moment
        fcntl.fcntl(file, fcntl.F_SETLEASE, fcntl.F_RDLCK)
    except BlockingIOError:
        return True
    except OSError:
        return False
    finally:
        os.close(file)  # and with it the lease
    return False


def _file_system(device: int, mounts: Path = Path("/proc/self/mountinfo")) -> str | None:
    """What kind it is ("ext4", "nfs4"); None if Linux does not tell."""
    numbers = f"{os.major(device)}:{os.minor(device)}"
    with suppress(OSError):
        for line in mounts.read_text(errors="replace").splitlines():
            where, _, what = line.partition(" - ")
            if numbers in where.split()[2:3]:
                return what.split()[0]
    return None


def _modified_unix_ms(status: os.stat_result) -> int:
    return status.st_mtime_ns // 1_000_000
