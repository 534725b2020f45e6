"""Records on a disk that is full, taken away, or cut off in the middle of a line."""

import errno
import json
import os
import resource
import subprocess
import sys
from pathlib import Path

import pytest

from embernet.device import records
from embernet.device.records import RecordFile
from embernet.errors import InputError
from tests.test_cli import ROOT

LINE = b'{"schema": "embernet.caption/1", "text": "a"}\n'


def record(text: str) -> dict[str, str]:
    return {"schema": "embernet.caption/1", "text": text}


def texts(path: Path) -> list[str]:
    return [json.loads(line)["text"] for line in path.read_bytes().splitlines()]


@pytest.fixture
def failing(monkeypatch):
    """Lets writes or syncs fail: a list of errors, or None for one that works, per call."""

    def install(name: str, outcomes: list[int | None]):
        real = getattr(os, name)

        def call(file, *arguments):
            number = outcomes.pop(0) if outcomes else None
            if number is not None:
                raise OSError(number, os.strerror(number))
            return real(file, *arguments)

        monkeypatch.setattr(records.os, name, call)

    return install


def test_every_record_is_one_write_and_then_on_the_disk(tmp_path, monkeypatch):
    calls = []
    write, fsync = os.write, os.fsync
    monkeypatch.setattr(records.os, "write", lambda file, data: calls.append(bytes(data)) or write(file, data))
    monkeypatch.setattr(records.os, "fsync", lambda file: calls.append("sync") or fsync(file))
    file = RecordFile(tmp_path / "out.jsonl")
    calls.clear()
    assert file.append(record("ä")) is None
    assert calls == ['{"schema": "embernet.caption/1", "text": "ä"}\n'.encode(), "sync"]


def test_records_are_appended_to_those_that_are_there(tmp_path):
    for text in "ab":
        file = RecordFile(tmp_path / "out.jsonl")
        file.append(record(text))
        file.close()
    assert texts(tmp_path / "out.jsonl") == ["a", "b"]
    assert [values["text"] for values in RecordFile(tmp_path / "out.jsonl").records()] == ["a", "b"]


def test_bytes_that_are_no_text_come_back_as_they_were(tmp_path):
    name = os.fsdecode(b"caf\xe9")
    file = RecordFile(tmp_path / "out.jsonl")
    file.append(record(name))
    assert next(file.records())["text"] == name
    assert b"\\udce9" in (tmp_path / "out.jsonl").read_bytes()


@pytest.mark.parametrize(
    ("held", "kept"),
    [
        (b"", b""),
        (LINE, LINE),
        (LINE + LINE[:20], LINE),
        (LINE + b"\0" * 900, LINE),
        (LINE + b"\0" * 20 + LINE[20:], LINE),  # of a line on two blocks, only the second had reached the disk
        (LINE[:9], b""),
        (LINE[:-1], b""),
        (b"\0" * 4096, b""),
    ],
)
def test_a_last_line_that_is_not_whole_is_removed(tmp_path, held, kept):
    path = tmp_path / "out.jsonl"
    path.write_bytes(held)
    file = RecordFile(path)
    assert file.removed_bytes == len(held) - len(kept)
    file.append(record("b"))
    assert path.read_bytes() == kept + LINE.replace(b'"a"', b'"b"')


@pytest.mark.parametrize("held", [b"my diary", b"my diary\n", b'{"a": 1}\n', b"\n", b"\0" * (2**20 + 1), LINE[1:]])
def test_a_file_that_holds_something_else_is_not_touched(tmp_path, held):
    path = tmp_path / "diary"
    path.write_bytes(held)
    with pytest.raises(InputError, match="diary: cannot be written .it holds something else than records"):
        RecordFile(path)
    assert path.read_bytes() == held


def test_only_one_process_writes(tmp_path):
    file = RecordFile(tmp_path / "out.jsonl")
    with pytest.raises(InputError, match="written by another process"):
        RecordFile(tmp_path / "out.jsonl")
    file.close()
    RecordFile(tmp_path / "out.jsonl")


@pytest.mark.parametrize("make", [Path.mkdir, os.mkfifo, lambda path: path.symlink_to("/dev/null")])
def test_only_a_regular_file_is_written(tmp_path, make):
    make(tmp_path / "out")
    with pytest.raises(InputError, match="out: cannot be written .(is a directory|not a regular file)"):
        RecordFile(tmp_path / "out")


def test_a_folder_that_is_not_there(tmp_path):
    with pytest.raises(InputError, match="no such file or directory"):
        RecordFile(tmp_path / "nowhere" / "out.jsonl")


# --- while it cannot be written -------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["write", "fsync"])
def test_what_cannot_be_written_waits_and_nothing_is_lost_or_doubled(tmp_path, failing, name):
    path = tmp_path / "out.jsonl"
    file = RecordFile(path)
    file.append(record("a"))
    failing(name, [errno.ENOSPC, errno.EIO])
    assert file.append(record("b")).errno == errno.ENOSPC
    assert file.append(record("c")).errno == errno.EIO
    assert file.waiting == 2
    assert texts(path) == ["a"]
    assert file.append(record("d")) is None
    assert (texts(path), file.waiting) == (["a", "b", "c", "d"], 0)


def test_so_many_wait_and_no_more(tmp_path, failing, monkeypatch):
    monkeypatch.setattr(records, "MOST_WAITING", 3)
    file = RecordFile(tmp_path / "out.jsonl")
    failing("write", [errno.ENOSPC] * 3)
    fullness = []
    for text in "abc":
        file.append(record(text))
        fullness.append(file.is_full)
    assert fullness == [False, False, True]
    assert file.flush() is None
    assert not file.is_full


def test_a_disk_that_becomes_full_within_a_line(tmp_path):
    """The kernel writes the part that fits, then nothing: here by the limit of the size of a file."""
    path = tmp_path / "out.jsonl"
    code = (
        "import resource, sys\n"
        "from embernet.device.records import RecordFile\n"
        "file = RecordFile(sys.argv[1])\n"
        "hard = resource.getrlimit(resource.RLIMIT_FSIZE)[1]\n"
        "assert file.append({'schema': 'embernet.caption/1', 'text': 'a'}) is None\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (60, hard))\n"
        "assert 'large' in file.append({'schema': 'embernet.caption/1', 'text': 'b'}).strerror\n"
        "assert open(sys.argv[1]).read().count('\\n') == 1\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (hard, hard))\n"
        "assert file.append({'schema': 'embernet.caption/1', 'text': 'c'}) is None\n"
    )
    assert resource.getrlimit(resource.RLIMIT_FSIZE)[1] == resource.RLIM_INFINITY
    subprocess.run([sys.executable, "-c", code, path], check=True, cwd=ROOT)
    assert texts(path) == ["a", "b", "c"]


@pytest.mark.parametrize("is_replaced", [True, False])
def test_a_file_that_is_moved_away_is_begun_anew(tmp_path, is_replaced):
    path = tmp_path / "out.jsonl"
    file = RecordFile(path)
    file.append(record("a"))
    path.rename(tmp_path / "out.jsonl.1")
    if is_replaced:
        path.write_bytes(b"")
    file.append(record("b"))
    assert (texts(tmp_path / "out.jsonl.1"), texts(path)) == (["a"], ["b"])


def test_a_folder_that_is_taken_away_and_comes_back(tmp_path):
    (tmp_path / "usb").mkdir()
    file = RecordFile(tmp_path / "usb" / "out.jsonl")
    (tmp_path / "usb").rename(tmp_path / "away")
    assert file.append(record("a")).errno == errno.ENOENT
    (tmp_path / "away").rename(tmp_path / "usb")
    assert file.append(record("b")) is None
    assert texts(tmp_path / "usb" / "out.jsonl") == ["a", "b"]
