"""A file of records, one JSON object per line, that survives power cuts, full disks and being moved away."""

import fcntl
import json
import os
import stat
from collections import deque
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

from embernet.errors import InputError, system_reason
from embernet.json_file import printable

MOST_WAITING = 256
_HEAD = b'{"schema": "embernet.'
_LONGEST_LINE = 1 << 20


class RecordFile:
    """Appends records, each with one write and on the disk before the next begins.

    A last line that is not whole, after a power cut for example, is removed when the file is opened. While it cannot
    be written, records wait in memory; if it is moved or removed meanwhile, a new one is begun. InputError if the file
    holds something else or is written by another process.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = Path(path)
        self._waiting: deque[bytes] = deque()
        self._file = -1
        try:
            self.removed_bytes = self._open()
        except OSError as error:
            self.close()
            is_locked = isinstance(error, BlockingIOError)
            problem = "written by another process" if is_locked else system_reason(error)
            raise InputError(f"{path}: cannot be written ({problem})", hint="choose another file") from None

    @property
    def waiting(self) -> int:
        """How many records are not written yet."""
        return len(self._waiting)

    @property
    def is_full(self) -> bool:
        """Whether so many records wait that no more should be made."""
        return len(self._waiting) >= MOST_WAITING

    def append(self, record: dict[str, Any]) -> OSError | None:
        """Write a record after those that wait; what went wrong, if it has to wait too."""
        text = json.dumps(record, ensure_ascii=False, allow_nan=False)
        self._waiting.append(printable(text).encode() + b"\n")
        return self.flush()

    def flush(self) -> OSError | None:
        """Try again to write what waits."""
        try:
            while self._waiting:
                self._require_same_file()
                self._write(self._waiting[0])
                self._waiting.popleft()
        except OSError as error:
            self.close()
            return error
        return None

    def records(self) -> Iterator[dict[str, Any]]:
        """What the file holds, the oldest first. A line that is not JSON is left out."""
        with open(self.path, "rb") as file:
            for line in file:
                if record := _record(line):
                    yield record

    def close(self) -> None:
        if self._file >= 0:
            os.close(self._file)
            self._file = -1

    def _open(self) -> int:
        """Open and lock the file and remove a last line that is not whole; how many bytes that were."""
        is_new = not self.path.exists()
        self._file = os.open(self.path, os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o644)
        if not stat.S_ISREG(os.fstat(self._file).st_mode):
            raise OSError(0, "not a regular file")
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise
        except OSError:  # a file system without locks
            pass
        if is_new:
            _sync_folder(self.path.parent)
        size = os.fstat(self._file).st_size
        whole = self._whole_bytes(size)
        if whole < size:
            os.ftruncate(self._file, whole)
            os.fsync(self._file)
        return size - whole

    def _whole_bytes(self, size: int) -> int:
        """How much of the file is records; all but a last line without an end, or one that makes no sense.

        OSError if the file holds something else: nobody's notes are to be cut or added to.
        """
        end = os.pread(self._file, _LONGEST_LINE, max(size - _LONGEST_LINE, 0))
        lines = end.splitlines(keepends=True)
        head = os.pread(self._file, len(_HEAD), 0)
        # Zeros are what a power cut leaves of a line that had not reached the disk.
        if not _HEAD.startswith(head) and (len(end) < size or end.strip(b"\0")):
            raise OSError(0, "it holds something else than records of embernet")
        return size if not lines or _record(lines[-1]) is not None else size - len(lines[-1])

    def _require_same_file(self) -> None:
        """Open the file (again) if it is not open, or if another one or none has its name now."""
        if self._file >= 0:
            mine = os.fstat(self._file)
            with suppress(FileNotFoundError):
                named = self.path.stat()
                if (named.st_dev, named.st_ino) == (mine.st_dev, mine.st_ino):
                    return
            self.close()
        self._open()

    def _write(self, line: bytes) -> None:
        size = os.fstat(self._file).st_size
        try:
            rest = memoryview(line)
            while rest:
                rest = rest[os.write(self._file, rest) :]
            os.fsync(self._file)
        except OSError:
            with suppress(OSError):  # if this fails, too, opening it again will remove the rest
                os.ftruncate(self._file, size)
            raise


def _record(line: bytes) -> dict[str, Any] | None:
    """What a line holds; None if it is not whole, or no record."""
    try:
        record = json.loads(line) if line.endswith(b"\n") else None
    except ValueError:
        return None
    return record if isinstance(record, dict) else None


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
