"""A folder that fills: each image once, when it is complete, and none is lost by a restart."""

import errno
import json
import os
import signal
import threading
import time
from pathlib import Path

import pytest
from PIL import Image

from embernet.device import inotify, watch
from embernet.device.frames import Frame, Stop
from embernet.device.watch import WatchedFolder, done_files
from embernet.errors import EmbernetError, InputError
from tests.test_cli import embernet

OLD = 1_700_000_000


def put(path: Path, color: int = 0, modified: float | None = OLD) -> Path:
    """A small image; modified=None: now."""
    Image.new("L", (8, 8), color).save(path)
    if modified is not None:
        os.utime(path, (modified, modified))
    return path


def names(folder: WatchedFolder, count: int) -> list[str]:
    """Names of the next frames; waits for them."""
    stop = Stop()
    frames = [folder.next(stop) for _ in range(count)]
    return [frame.path.name for frame in frames if frame and frame.path]


def is_quiet(folder: WatchedFolder) -> bool:
    """Whether nothing is there to be given."""
    stop = Stop()
    timer = threading.Timer(0.05, stop.set)
    timer.start()
    frame = folder.next(stop)
    timer.cancel()
    return frame is None


@pytest.fixture(params=["inotify", "polling"])
def kind(request, monkeypatch) -> str:
    """Runs a test once with the kernel's announcements and once without."""
    if request.param == "polling":
        monkeypatch.setattr(watch, "open_folder_events", lambda folder: None)
        monkeypatch.setattr(watch, "POLL_S", 0.02)
    return request.param


# --- what is given --------------------------------------------------------------------------------------------------


def test_first_what_is_there_the_oldest_first_then_what_comes(kind, tmp_path):
    put(tmp_path / "b.png", modified=OLD)
    put(tmp_path / "a.jpg", modified=OLD + 5)
    (tmp_path / "notes.txt").write_text("no image")
    (tmp_path / "folder.png").mkdir()
    folder = WatchedFolder(tmp_path)
    assert names(folder, 2) == ["b.png", "a.jpg"]
    assert is_quiet(folder)
    put(tmp_path / "c.png")
    put(tmp_path / "d.PNG", modified=OLD + 9)
    assert sorted(names(folder, 2)) == ["c.png", "d.PNG"]
    assert is_quiet(folder)


def test_a_frame_says_where_its_file_is_and_when_it_was_written(tmp_path):
    path = put(tmp_path / "a.png")
    frame = WatchedFolder(tmp_path).next(Stop())
    assert isinstance(frame, Frame)
    assert (frame.path, frame.modified_unix_ms) == (path, OLD * 1000)
    assert frame.taken.utcoffset() is not None


def test_a_file_that_is_being_written_is_not_complete(tmp_path):
    folder = WatchedFolder(tmp_path)
    assert is_quiet(folder)
    with open(tmp_path / "a.png", "wb") as file:
        file.write(b"half of")
        file.flush()
        assert is_quiet(folder)
    assert names(folder, 1) == ["a.png"]


def test_a_look_does_not_take_what_a_writer_has_not_closed(monkeypatch, tmp_path):
    """An upload that comes to a halt for a moment."""
    monkeypatch.setattr(watch, "_is_being_written", lambda path: False)  # of a file of somebody else
    folder = WatchedFolder(tmp_path)
    assert is_quiet(folder)
    with open(tmp_path / "a.png", "wb") as file:
        file.write(b"half of")
        file.flush()
        monkeypatch.setattr(watch, "SETTLED_S", 0.0)
        folder._look_at = 0.0
        assert is_quiet(folder)
    assert names(folder, 1) == ["a.png"]


def test_without_announcements_a_file_is_complete_when_it_rests(monkeypatch, tmp_path):
    monkeypatch.setattr(watch, "open_folder_events", lambda folder: None)
    monkeypatch.setattr(watch, "POLL_S", 0.02)
    monkeypatch.setattr(watch, "SETTLED_S", 0.05)
    monkeypatch.setattr(watch.time, "time", lambda: 0.0)  # a clock that was set back: its age says nothing
    folder = WatchedFolder(tmp_path)
    sizes, stop = [], Stop()

    def look_and_write(name: str):
        """Before each look the file grows, three times."""
        if len(sizes) < 3:
            with open(tmp_path / "a.png", "ab") as file:
                file.write(b"x")
        status = WatchedFolder._status(folder, name)
        sizes.append(status.st_size)
        return status

    monkeypatch.setattr(folder, "_status", look_and_write)
    put(tmp_path / "a.png")
    start = (tmp_path / "a.png").stat().st_size
    assert folder.next(stop).path.name == "a.png"
    assert sizes[:3] == [start + 1, start + 2, start + 3]
    assert set(sizes[3:]) == {start + 3}


def test_a_file_has_rested_for_as_long_as_is_promised(monkeypatch, tmp_path):
    monkeypatch.setattr(watch, "_is_being_written", lambda path: False)  # of a file of somebody else
    monkeypatch.setattr(watch, "SETTLED_S", 0.3)
    monkeypatch.setattr(watch, "POLL_S", 0.02)
    path = put(tmp_path / "a.png", modified=None)
    assert names(WatchedFolder(tmp_path), 1) == ["a.png"]
    assert time.time() - path.stat().st_mtime >= 0.3


def test_a_file_that_was_begun_before_is_not_complete_while_it_is_open(kind, tmp_path, monkeypatch):
    monkeypatch.setattr(watch, "POLL_S", 0.02)
    monkeypatch.setattr(watch, "SETTLED_S", 0.0)
    put(tmp_path / "a.png", modified=None)
    with open(tmp_path / "a.png", "ab"):
        folder = WatchedFolder(tmp_path)
        assert is_quiet(folder)
    assert names(folder, 1) == ["a.png"]


def test_a_network_file_system_that_refuses_leases_is_not_believed(kind, tmp_path, monkeypatch):
    monkeypatch.setattr(watch, "_is_being_written", lambda path: True)
    put(tmp_path / "a.png")
    assert is_quiet(WatchedFolder(tmp_path))
    monkeypatch.setattr(watch, "_file_system", lambda device: "nfs4")
    assert names(WatchedFolder(tmp_path), 1) == ["a.png"]


def test_what_file_system_a_folder_is_on(tmp_path):
    mounts = tmp_path / "mountinfo"
    mounts.write_text(
        "36 35 0:25 / / rw,noatime shared:1 - ext4 /dev/mmcblk0p2 rw\n\n"
        "98 36 0:45 / /srv/my\\040photos rw shared:29 master:3 - nfs4 nas:/photos rw,vers=4.2\n"
    )
    assert [watch._file_system(os.makedev(0, minor), mounts) for minor in (25, 45, 46)] == ["ext4", "nfs4", None]
    assert watch._file_system(0, tmp_path / "nothing") is None


def test_names_that_are_not_meant_yet_are_left_alone_until_they_are_renamed(kind, tmp_path):
    for name in (".a.png", "b.png.part", "c.tmp", ".d.jpg"):
        put(tmp_path / "x.png").rename(tmp_path / name)
    folder = WatchedFolder(tmp_path)
    assert is_quiet(folder)
    (tmp_path / "b.png.part").rename(tmp_path / "b.png")
    assert names(folder, 1) == ["b.png"]
    assert is_quiet(folder)


def test_a_file_that_is_written_again_is_given_again(kind, tmp_path):
    put(tmp_path / "last.jpg")
    folder = WatchedFolder(tmp_path)
    assert names(folder, 1) == ["last.jpg"]
    with open(tmp_path / "last.jpg", "ab"):
        pass  # opened and closed: nothing new
    assert is_quiet(folder)
    put(tmp_path / "last.jpg", 9, modified=OLD + 1)
    assert names(folder, 1) == ["last.jpg"]


def test_files_that_are_written_again_and_again_have_one_turn_each(kind, tmp_path):
    """Faster than they are captioned: two cameras that keep their newest picture, and one file that comes late."""
    folder = WatchedFolder(tmp_path)
    given = []
    for second in range(8):
        for name in ("a.png", "b.png"):
            put(tmp_path / name, second, modified=OLD + second)
        if second == 5:
            put(tmp_path / "c.png")
        given += names(folder, 1)
        assert len(folder._arrived) <= 2
    assert "c.png" in given


def test_what_is_gone_before_its_turn_is_not_given_and_nothing_is_kept_of_it(kind, tmp_path):
    for name in ("a.png", "b.png"):
        put(tmp_path / name)
    folder = WatchedFolder(tmp_path)
    assert names(folder, 1) == ["a.png"]
    (tmp_path / "b.png").unlink()
    (tmp_path / "a.png").unlink()
    assert is_quiet(folder)
    assert not folder._given
    put(tmp_path / "a.png")  # the same name and time as before
    assert names(folder, 1) == ["a.png"]


def test_more_than_the_kernel_can_keep_is_found_by_looking(monkeypatch, tmp_path):
    put(tmp_path / "a.png")
    folder = WatchedFolder(tmp_path)
    assert names(folder, 1) == ["a.png"]
    put(tmp_path / "b.png")
    missed = [inotify.Announcement(is_missed=True)]
    monkeypatch.setattr(folder._events, "read", lambda: missed)
    assert names(folder, 1) == ["b.png"]


def test_files_that_the_kernel_does_not_announce_are_found_after_a_while(monkeypatch, tmp_path):
    monkeypatch.setattr(watch, "LOOK_AGAIN_S", 0.02)
    (tmp_path / "in").mkdir()
    folder = WatchedFolder(tmp_path / "in")
    assert is_quiet(folder)
    os.link(put(tmp_path / "a.png"), tmp_path / "in" / "linked.png")
    assert names(folder, 1) == ["linked.png"]


# --- what can be wrong ----------------------------------------------------------------------------------------------


def test_a_folder_that_vanishes_is_a_failure_until_it_is_back(kind, tmp_path):
    place = tmp_path / "usb"
    place.mkdir()
    put(place / "a.png")
    folder = WatchedFolder(place)
    assert names(folder, 1) == ["a.png"]
    place.rename(tmp_path / "unplugged")
    for _ in range(2):
        with pytest.raises(EmbernetError, match="usb: cannot be watched .(it is gone|no such file or directory)"):
            folder.next(Stop())
    (tmp_path / "unplugged").rename(place)
    put(place / "b.png")
    assert names(folder, 1) == ["b.png"]


def test_a_folder_that_takes_the_place_of_another_is_watched(monkeypatch, tmp_path):
    """As one that is mounted there, which the kernel does not announce."""
    monkeypatch.setattr(watch, "LOOK_AGAIN_S", 0.02)
    place = tmp_path / "usb" / "in"
    place.mkdir(parents=True)
    put(place / "a.png")
    folder = WatchedFolder(place)
    assert names(folder, 1) == ["a.png"]
    place.parent.rename(tmp_path / "other")
    place.mkdir(parents=True)
    for second in range(2):  # only an announcement tells that a file was written again
        put(place / "b.png", modified=OLD + second)
        assert names(folder, 1) == ["b.png"]


def test_a_link_that_leads_to_itself_is_no_folder(tmp_path):
    (tmp_path / "link").symlink_to("link")
    with pytest.raises(InputError, match="no such folder"):
        WatchedFolder(tmp_path / "link")


def test_a_folder_that_is_not_there(tmp_path):
    with pytest.raises(InputError, match="nowhere: no such folder"):
        WatchedFolder(tmp_path / "nowhere")


@pytest.mark.parametrize("number", [errno.ENOSYS, errno.EMFILE])
def test_a_kernel_without_announcements_is_no_error(monkeypatch, tmp_path, number):
    def fail(folder):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(inotify, "FolderEvents", fail)
    assert inotify.open_folder_events(tmp_path) is None
    put(tmp_path / "a.png")
    assert names(WatchedFolder(tmp_path), 1) == ["a.png"]


# --- going on after a restart ---------------------------------------------------------------------------------------


def test_what_has_a_record_is_not_given_again(tmp_path):
    for name in ("a.png", "b.png", "c.png"):
        put(tmp_path / name)
    records = [
        {"input": {"path": str(tmp_path / "a.png"), "modified_unix_ms": OLD * 1000}},
        {"input": {"path": str(tmp_path / "b.png"), "modified_unix_ms": OLD * 1000 - 1}},  # of what it held before
        {"input": {"path": "/elsewhere/c.png", "modified_unix_ms": OLD * 1000}},
        {"input": {"path": None, "modified_unix_ms": None}},
        {"input": None},
        {},
    ]
    done = done_files(tmp_path, records)
    assert done == {"a.png": OLD * 1000, "b.png": OLD * 1000 - 1}
    assert names(WatchedFolder(tmp_path, done), 2) == ["b.png", "c.png"]


def test_every_file_gets_one_record_and_a_restart_goes_on(cli, tmp_path):
    folder, output = tmp_path / "in", tmp_path / "out.jsonl"
    folder.mkdir()
    odd = os.fsdecode(b"caf\xe9.png")  # bytes that are no text
    for name in ("a.png", odd):
        put(folder / name, 200)
    (folder / "empty.jpg").touch()
    os.utime(folder / "empty.jpg", (OLD + 1, OLD + 1))
    command = ("caption", "--watch", folder, "-m", "spark", "-n", 2, "-o", output)
    code, out, err = cli(*command, "--count", 2)
    assert (code, out) == (0, "")
    put(folder / "later.png", modified=OLD + 2)
    code, _, more = cli(*command, "--count", 1, "-q")
    assert code == 0
    records = [json.loads(line) for line in output.read_text().splitlines()]
    assert [Path(record["input"]["path"]).name for record in records[2:]] == ["empty.jpg", "later.png"]
    assert {Path(record["input"]["path"]).name for record in records[:2]} == {"a.png", odd}
    schemas = ["embernet.caption/1", "embernet.caption/1", "embernet.error/1", "embernet.caption/1"]
    assert [record["schema"] for record in records] == schemas
    assert records[2]["code"] == 3
    assert (err + more).count("empty.jpg: not an image (the file is empty)") == 1


def test_an_image_is_a_line_whatever_its_name(cli, tmp_path):
    put(tmp_path / "two\nlines.png")
    code, out, _ = cli("caption", "--watch", tmp_path, "-m", "spark", "-n", 2, "--count", 1)
    assert code == 0
    assert len(out.splitlines()) == 1
    assert r"two\nlines.png" in out


def test_a_record_is_the_documented_object_and_more(cli, tmp_path):
    path = put(tmp_path / "a.png")
    code, out, _ = cli("caption", "--watch", tmp_path, "-m", "spark", "-n", 2, "--count", 1, "--json", "-q")
    record = json.loads(out)
    _, out, _ = cli("caption", path, "-m", "spark", "-n", 2, "--json", "-q")
    plain = json.loads(out)
    assert code == 0
    assert next(iter(record)) == "schema"
    assert plain.keys() < record.keys()
    assert record.keys() - plain.keys() == {"time", "source", "memory"}
    assert plain["input"].items() < record["input"].items()
    for key in ("schema", "model", "text", "finish_reason", "usage", "routing", "warnings"):
        assert record[key] == plain[key]
    assert plain["timings"].keys() == record["timings"].keys()
    assert record["source"] == str(tmp_path)
    assert 0 < record["memory"]["anonymous_bytes"] < record["memory"]["rss_bytes"]
    assert record["memory"]["pss_bytes"] > 0


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 0), (signal.SIGINT, 130)])
def test_a_signal_ends_it_while_it_waits(tmp_path, number, code):
    put(tmp_path / "a.png")
    process = embernet("caption", "--watch", tmp_path, "-m", "spark", "-n", 2)
    assert process.stdout.readline().startswith(f"{tmp_path}/a.png: ".encode())
    process.send_signal(number)
    out, err = process.communicate(timeout=60)
    assert (process.returncode, out) == (code, b"")
    assert b"Traceback" not in err
