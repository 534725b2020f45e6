"""A camera that is a program: what it gives, how it fails, and captions of it for as long as it lasts."""

import configparser
import io
import json
import os
import signal
import threading
import time
from pathlib import Path

import numpy as np
import pytest
import typer
from PIL import Image

from embernet.cli.app import app
from embernet.device import camera, captioning
from embernet.device.camera import CommandCamera, parse_command, raspberry_pi_command
from embernet.device.captioning import Caption, Failure, Recovery, caption_frames
from embernet.device.frames import Frame, Stop, now
from embernet.device.saving import FrameFolder
from embernet.errors import EmbernetError, InputError, MissingExtraError
from embernet.runtime import load
from tests.conftest import EXAMPLES, one_sentence
from tests.test_cli import ROOT, embernet


def jpeg(color: int = 0, size: tuple[int, int] = (16, 12)) -> bytes:
    file = io.BytesIO()
    Image.new("RGB", size, (color, color, color)).save(file, "JPEG")
    return file.getvalue()


@pytest.fixture
def program(tmp_path, monkeypatch):
    """Puts a shell script on the PATH -> its path. $HERE is the folder of the test, which holds a picture.jpg."""
    (tmp_path / "picture.jpg").write_bytes(jpeg(120))
    (tmp_path / "bin").mkdir()
    monkeypatch.setenv("PATH", str(tmp_path / "bin"), prepend=":")
    monkeypatch.setenv("HERE", str(tmp_path))

    def write(script: str, name: str = "still") -> Path:
        path = tmp_path / "bin" / name
        path.write_text(f"#!/bin/sh\n{script}\n")
        path.chmod(0o755)
        return path

    return write


@pytest.fixture(scope="module")
def model():
    return load("spark")


# --- the program ----------------------------------------------------------------------------------------------------


def test_a_frame_is_what_the_program_writes(program, tmp_path):
    program('echo a note >&2; cat "$HERE/$1"')
    source = CommandCamera(["still", "picture.jpg"])
    frame = source.next(Stop())
    assert frame.image == (tmp_path / "picture.jpg").read_bytes()
    assert frame.path is None
    assert source.name == "still"


@pytest.mark.parametrize(
    ("script", "problem"),
    [
        ("exit 3", "still: ended with 3"),
        ("echo starting >&2; echo no cameras available >&2; exit 1", "ended with 1 .starting; no cameras available."),
        ("true", "still: wrote no image"),
        ("kill -9 $$", "still: was killed by signal 9"),
        ("head -c 3000 /dev/zero", "still: wrote more than 0 MB"),
        ("sleep 60", "still: did not end within 0.2 s"),
        ("exec >&- 2>&-; sleep 60", "still: did not end within 0.2 s"),
        ("sleep 60 & echo picture", "still: did not end within 0.2 s"),  # somebody may still write to the pipe
        ("head -c 100000 /dev/zero >&2; echo >&2; echo end >&2; exit 1", "ended with 1 .*end.$"),
    ],
)
def test_each_way_to_fail_is_one_sentence(program, monkeypatch, script, problem):
    program(script)
    monkeypatch.setattr(camera, "MAX_FILE_BYTES", 2000)
    timeout = 0.2 if "0.2" in problem else 20
    with pytest.raises(EmbernetError, match=problem) as error:
        CommandCamera(["still"], timeout_s=timeout).next(Stop())
    assert len(str(error.value)) < 1200


def test_a_program_that_hangs_ends_with_all_that_it_started(program, tmp_path):
    program('sleep 60 & echo $! > "$HERE/child"; wait')
    with pytest.raises(EmbernetError, match="did not end"):
        CommandCamera(["still"], timeout_s=0.3).next(Stop())
    child = int((tmp_path / "child").read_text())
    deadline = time.monotonic() + 10
    while _is_running(child) and time.monotonic() < deadline:
        time.sleep(0.01)
    assert not _is_running(child)


def _is_running(process: int) -> bool:
    try:
        return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except OSError:
        return False


def test_no_picture_is_waited_for_when_it_is_time_to_stop(program):
    program("sleep 60")
    stop = Stop()
    threading.Timer(0.05, stop.set).start()
    assert CommandCamera(["still"], timeout_s=50).next(stop) is None


def test_the_end_of_a_program_is_not_waited_for_when_it_is_time_to_stop(program):
    program("exec >&- 2>&-; sleep 60")
    stop = Stop()
    threading.Timer(0.05, stop.set).start()
    started = time.monotonic()
    assert CommandCamera(["still"], timeout_s=20).next(stop) is None
    assert time.monotonic() - started < 15


def test_a_file_that_is_no_program(tmp_path):
    (tmp_path / "still").write_text("no program")
    (tmp_path / "still").chmod(0o755)
    with pytest.raises(EmbernetError, match="still: cannot be started .exec format error"):
        CommandCamera([str(tmp_path / "still")]).next(Stop())


def test_the_program_of_the_raspberry_pi_is_the_newest_there_is(program, tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))
    with pytest.raises(MissingExtraError, match="rpicam-still: no such program"):
        raspberry_pi_command()
    program("", "libcamera-still")
    assert raspberry_pi_command()[0] == "libcamera-still"
    program("", "rpicam-still")
    command = raspberry_pi_command()
    assert " ".join(command) == "rpicam-still -n --immediate --width 640 --height 480 -e jpg -o -"


def test_a_command_is_split_as_a_shell_does(program):
    program("")
    assert parse_command("still --label 'my camera'") == ["still", "--label", "my camera"]
    for text, error in (("", "is empty"), ("still 'a", "not a command"), ("no-such-program -x", "no such program")):
        with pytest.raises(EmbernetError, match=error):
            parse_command(text)


# --- the loop -------------------------------------------------------------------------------------------------------


class Frames:
    """A source of what a test prepared: frames, and errors."""

    name = "test"

    def __init__(self, *given: object) -> None:
        self.given = list(given)
        self.asked = []

    def next(self, stop: Stop) -> Frame | None:
        self.asked.append(time.monotonic())
        if not self.given:
            return None
        item = self.given.pop(0)
        if isinstance(item, Exception):
            raise item
        return Frame(item, now())

    def close(self) -> None:
        pass


def scene(level: float, noise: float = 0.0, box: float = 0.0, seed: int = 0) -> np.ndarray:
    """Grey pixels (48, 64, 3); box: a square of this side, as a share of the width, is white."""
    pixels = level + noise * np.random.default_rng(seed).standard_normal((48, 64, 3))
    side = round(64 * box)
    pixels[:side, :side] = 1.0
    return (255 * pixels.clip(0, 1)).astype(np.uint8)


def test_captions_are_those_of_the_model(model):
    data = (EXAMPLES / "flag.png").read_bytes()
    (event,) = caption_frames(model, Frames(data), stop=Stop())
    expected = model.caption(data)
    assert event.answer.text == expected.text
    assert event.answer.routing == expected.routing
    record = event.to_dict(model)
    assert (record["source"], record["input"]["path"]) == ("test", None)
    assert record["input"]["sha256"] == model.encode(data).sha256
    assert record["timings"]["preprocess_ms"] > 0
    assert json.loads(json.dumps(record, allow_nan=False)) == record


def test_a_prompt_and_options_of_ones_own(model):
    (event,) = caption_frames(model, Frames(scene(0.5)), stop=Stop(), prompt="what shape?", options={"max_tokens": 1})
    assert event.answer.usage.completion_tokens == 1
    with pytest.raises(InputError, match="the question does not fit the context"):
        next(caption_frames(model, Frames(scene(0.5)), stop=Stop(), prompt="what " * 3000))


def test_failures_are_tried_again_ever_later_and_it_is_said_when_it_works(model, monkeypatch):
    waits = []
    monkeypatch.setattr(Stop, "wait", lambda self, seconds, *files: waits.append(seconds))
    damaged = jpeg(size=(64, 64))[:200]
    errors = [EmbernetError(f"failure {i}") for i in range(7)]
    events = list(caption_frames(model, Frames(*errors, damaged, scene(0.1), errors[0], scene(0.9)), stop=Stop()))
    assert [type(event) for event in events] == [*[Failure] * 8, Recovery, Caption, Failure, Recovery, Caption]
    assert [event.retry_s for event in events[:8]] == [1, 2, 4, 8, 16, 32, 60, 60]
    assert waits == [1, 2, 4, 8, 16, 32, 60, 60, 1]
    assert str(events[7].error).startswith("test: the image is damaged")
    assert (events[8].failures, events[11].failures) == (8, 1)
    record = events[0].to_dict()
    assert (record["schema"], record["message"], record["input"]) == ("embernet.error/1", "failure 0", None)


def test_a_camera_that_is_gone_for_days_is_still_tried(model, monkeypatch):
    monkeypatch.setattr(Stop, "wait", lambda self, seconds, *files: [])
    events = list(caption_frames(model, Frames(*[EmbernetError("gone")] * 2000, scene(0.1)), stop=Stop()))
    assert [event.retry_s for event in events[:2000]][6:] == [60] * 1994
    assert (events[2000].failures, type(events[2001])) == (2000, Caption)


def test_a_file_that_fails_is_left_behind_at_once(model, tmp_path):
    (tmp_path / "bad.png").write_bytes(b"no image")
    (tmp_path / "good.png").write_bytes((EXAMPLES / "flag.png").read_bytes())
    frames = Frames(tmp_path / "bad.png", tmp_path / "gone.png", tmp_path / "good.png")
    bad, gone, good = caption_frames(model, frames, stop=Stop())
    assert (bad.retry_s, gone.retry_s) == (None, None)
    assert str(gone.error) == f"{tmp_path}/gone.png: no such file"
    assert bad.to_dict()["input"]["path"] == str(tmp_path / "bad.png")
    assert good.path == tmp_path / "good.png"
    for failure in (bad, gone):  # else each would keep its image in memory
        assert (failure.error.__traceback__, failure.error.__context__) == (None, None)


def test_a_source_that_can_never_be_used_ends_it(model):
    with pytest.raises(InputError, match="no images"):
        list(caption_frames(model, Frames(InputError("no images"), scene(0.5)), stop=Stop()))


def test_moments_that_pass_meanwhile_are_left_out(model, monkeypatch):
    """Every 10 seconds: a frame that takes 1 second, one that takes 25, one that takes 1."""
    clock = [1000.0]
    takes = [1.0, 25.0, 1.0, 0.0]

    class Slow(Frames):
        def next(self, stop):
            self.asked.append(clock[0])
            clock[0] += takes[len(self.asked) - 1]
            self.asked[-1] -= 1000.0
            return Frame(self.given.pop(0), now()) if self.given else None

    def wait(self, seconds, *files):
        clock[0] += seconds

    monkeypatch.setattr(captioning.time, "monotonic", lambda: clock[0])
    monkeypatch.setattr(Stop, "wait", wait)
    source = Slow(*[scene(0.5)] * 3)
    list(caption_frames(model, source, stop=Stop(), interval_s=10.0))
    assert source.asked == [0, 10, 40, 50]


def test_a_still_scene_is_not_captioned_again(model):
    still = [scene(0.4, noise=0.03, seed=seed) for seed in range(3)]
    drifted = [scene(0.4 + step) for step in (0.01, 0.015)]
    frames = [*still, *drifted, scene(0.43), scene(0.43), scene(0.43, box=0.3)]
    events = list(caption_frames(model, Frames(*frames), stop=Stop(), threshold=captioning.DEFAULT_THRESHOLD))
    taken = [next(i for i, frame in enumerate(frames) if frame is event.frame.image) for event in events]
    assert taken == [0, 5, 7]
    assert len(list(caption_frames(model, Frames(*still), stop=Stop(), threshold=0.0))) == 3


def test_it_stops_after_the_caption_under_way(model):
    stop = Stop()
    events = []
    for event in caption_frames(model, Frames(scene(0.1), scene(0.9)), stop=stop):
        events.append(event)
        stop.set()
    assert len(events) == 1


# --- kept frames ----------------------------------------------------------------------------------------------------


def test_frames_are_kept_as_they_came_in_the_order_of_time(tmp_path):
    folder = FrameFolder(tmp_path / "kept")
    moment = now()
    png = io.BytesIO()
    Image.new("L", (4, 4)).save(png, "PNG")
    paths = [
        folder.save(Frame(image, moment.replace(microsecond=i)))
        for i, image in enumerate((jpeg(), png.getvalue(), scene(0.5)))
    ]
    assert sorted(paths) == paths
    assert [path.suffix for path in paths] == [".jpg", ".png", ".jpg"]
    assert (paths[0].read_bytes(), paths[1].read_bytes()) == (jpeg(), png.getvalue())
    with Image.open(paths[2]) as image:
        assert image.size == (64, 48)
    assert sorted(folder.folder.iterdir()) == paths


def test_a_frame_that_cannot_be_kept_leaves_nothing(tmp_path, monkeypatch):
    folder = FrameFolder(tmp_path / "kept")

    def fail(file):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", fail)
    with pytest.raises(OSError, match="No space"):
        folder.save(Frame(jpeg(), now()))
    assert not list((tmp_path / "kept").iterdir())


# --- the command ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("arguments", [("--camera",), ("--camera-command", "rpicam-still -o -")])
def test_a_camera_prints_a_line_per_caption(cli, program, arguments):
    program('cat "$HERE/picture.jpg"', "rpicam-still")
    code, out, err = cli("caption", *arguments, "-m", "spark", "--count", 2, "-n", 3)
    assert code == 0
    assert len(out.splitlines()) == 2
    assert out.startswith(now().isoformat()[:8])
    assert err == "embernet: captioning rpicam-still; Ctrl-C ends it\n"


def test_captions_records_and_frames_of_a_camera_that_fails_now_and_then(cli, program, tmp_path, monkeypatch):
    monkeypatch.setattr(captioning, "_RETRY_FIRST_S", 0.01)
    program('echo >> "$HERE/n"; [ $(wc -l < "$HERE/n") = 2 ] && { echo busy >&2; exit 1; }; cat "$HERE/picture.jpg"')
    output, kept = tmp_path / "out.jsonl", tmp_path / "kept"
    options = ("-m", "spark", "-n", 2, "--count", 2, "-o", output, "--save", kept)
    code, out, err = cli("caption", "--camera-command", "still", *options)
    assert (code, out) == (0, "")
    assert err.splitlines()[1:] == [
        "embernet: still: ended with 1 (busy); trying again in 0.01 s",
        "embernet: still: works again after 1 failure",
    ]
    records = [json.loads(line) for line in output.read_text().splitlines()]
    assert [record["source"] for record in records] == ["still", "still"]
    assert [Path(record["input"]["path"]) for record in records] == sorted(kept.iterdir())
    code, _, err = cli("caption", "--camera-command", "still", *options, "--if-changed", "--count", 1, "--json")
    assert code == 0
    assert len(output.read_text().splitlines()) == 3


def test_the_first_failure_ends_it_if_that_is_asked_for(cli, program):
    program("exit 5")
    code, out, err = cli("caption", "--camera-command", "still", "-m", "spark", "--fail-fast", "--json", "-q")
    assert (code, out) == (1, "")
    error = json.loads(err)
    assert (error["schema"], error["message"]) == ("embernet.error/1", "still: ended with 5")


def test_frames_that_cannot_be_kept_are_said_once(cli, program, tmp_path, monkeypatch):
    program('cat "$HERE/picture.jpg"')
    outcomes = [28, 28, None, None]

    def save(self, frame):
        if number := outcomes.pop(0):
            raise OSError(number, os.strerror(number))
        return tmp_path / "kept.jpg"

    monkeypatch.setattr(FrameFolder, "save", save)
    options = ("-m", "spark", "-n", 1, "--count", 4, "--save", tmp_path / "kept", "--json")
    code, out, err = cli("caption", "--camera-command", "still", *options)
    assert code == 0
    paths = [json.loads(line)["input"]["path"] for line in out.splitlines()]
    assert paths == [None, None, str(tmp_path / "kept.jpg"), str(tmp_path / "kept.jpg")]
    assert err.count("cannot be written for now (no space left on device)") == 1
    assert err.count("can be written again") == 1


def test_records_that_wait_for_the_disk_are_written_when_it_has_room(cli, program, tmp_path, monkeypatch):
    program('cat "$HERE/picture.jpg"')
    real, failures = os.write, [28] * 5

    def write(file, data):
        if failures and bytes(data).startswith(b'{"schema"'):
            raise OSError(failures.pop(), "No space left on device")
        return real(file, data)

    monkeypatch.setattr("embernet.device.records.os.write", write)
    monkeypatch.setattr("embernet.device.records.MOST_WAITING", 3)
    monkeypatch.setattr("embernet.cli.caption_frames._WRITE_AGAIN_S", 0.01)
    options = ("-m", "spark", "-n", 1, "--count", 6, "-o", tmp_path / "out.jsonl")
    code, _, err = cli("caption", "--camera-command", "still", *options)
    assert code == 0
    assert len((tmp_path / "out.jsonl").read_text().splitlines()) == 6
    assert err.count("cannot be written for now") == 1
    assert err.count("can be written again") == 1


def test_records_that_cannot_be_written_in_the_end_are_an_error(cli, program, tmp_path, monkeypatch):
    program('cat "$HERE/picture.jpg"')

    def write(file, data):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("embernet.device.records.os.write", write)
    options = ("-m", "spark", "-n", 1, "--count", 2, "-o", tmp_path / "out.jsonl", "-q")
    code, _, err = cli("caption", "--camera-command", "still", *options)
    assert code == 1
    assert err.splitlines()[-1].endswith("out.jsonl: 2 records could not be written (no space left on device)")


def test_what_cannot_be_said_does_not_end_it(program, tmp_path):
    """A log on the disk that is full."""
    program('cat "$HERE/picture.jpg"')
    options = ("-m", "spark", "-n", 1, "--count", 2, "-o", tmp_path / "out.jsonl")
    with open("/dev/full", "wb") as full:
        process = embernet("caption", "--camera-command", "still", *options, stderr=full)
        process.communicate(timeout=60)
    assert process.returncode == 0
    assert len((tmp_path / "out.jsonl").read_text().splitlines()) == 2


def test_a_signal_ends_it_while_the_camera_hangs(program, tmp_path):
    program('touch "$HERE/begun"; exec sleep 60')
    process = embernet("caption", "--camera-command", "still", "-m", "spark", start_new_session=True)
    assert b"captioning still" in process.stderr.readline()
    while not (tmp_path / "begun").exists():
        time.sleep(0.01)
    process.send_signal(signal.SIGTERM)
    out, err = process.communicate(timeout=30)
    assert (process.returncode, out, err) == (0, b"", b"")


def test_the_unit_for_systemd_starts_a_command_that_there_is():
    unit = configparser.ConfigParser(interpolation=None)
    unit.read(ROOT / "device" / "systemd" / "embernet-caption.service")
    program, name, *arguments = unit["Service"]["ExecStart"].split()
    command = typer.main.get_command(app).commands[name]
    options = command.make_context(name, arguments).params
    assert program.endswith("/bin/embernet")
    assert (options["camera"], options["interval"], options["if_changed"]) == (True, 60.0, True)
    assert str(options["output"]) == "captions.jsonl"


@pytest.mark.parametrize(
    ("arguments", "problem"),
    [
        (["--camera", "--watch", "."], "choose one of --camera, --mjpeg or --watch"),
        (["--camera-command", "x", "--mjpeg"], "choose one of"),
        (["--camera", "/dev/video0", "/dev/video1"], "expected at most one device"),
        (["--camera-command", "x", "/dev/video0"], "expected none"),
        (["--watch", ".", "photo.jpg"], "no IMAGE goes with"),
        (["--watch", ".", "--interval", "5"], "--interval needs --camera or --mjpeg"),
        (["--watch", ".", "--if-changed"], "--if-changed needs --camera or --mjpeg"),
        (["--watch", ".", "--save", "x"], "--save needs --camera or --mjpeg"),
        (["photo.jpg", "--count", "5"], "--count needs --camera, --mjpeg or --watch"),
        (["photo.jpg", "-o", "x.jsonl"], "--output needs --camera, --mjpeg or --watch"),
        (["--camera", "--threshold", "0.5"], "--threshold needs --if-changed"),
        (["--camera", "--if-changed", "--threshold", "nan"], "--threshold must be from 0 to 1"),
        (["--camera", "--interval", "nan"], "--interval must be seconds"),
        (["--camera", "--interval=-1"], "--interval must be seconds"),
        (["--camera", "--interval", "1e7"], "--interval must be seconds, from 0 to 604800"),
        ([], "name an IMAGE"),
    ],
)
def test_options_that_do_not_go_together_are_wrong_usage(cli, arguments, problem):
    code, out, err = cli("caption", *arguments, "--json")
    assert (code, out) == (2, "")
    assert problem in json.loads(err)["message"]


@pytest.mark.parametrize(
    ("arguments", "code", "start"),
    [
        (["--camera"], 6, "rpicam-still: no such program"),
        (["--camera-command", "no-such-program"], 6, "no-such-program: no such program"),
        (["--camera", "/dev/video99"], 3, "/dev/video99: no such camera"),
        (["--camera", "{here}"], 3, "{here}: not a camera"),
        (["--watch", "{here}/nowhere"], 3, "{here}/nowhere: no such folder"),
        (["--watch", "{here}", "-o", "{here}"], 3, "{here}: cannot be written"),
        (["--watch", "{here}", "-p", "what " * 3000], 3, "the question does not fit the context"),
    ],
)
def test_errors_are_one_sentence_with_the_right_code(cli, tmp_path, monkeypatch, arguments, code, start):
    monkeypatch.setenv("PATH", str(tmp_path))
    found, out, err = cli("caption", *(argument.format(here=tmp_path) for argument in arguments), "-q", "-m", "spark")
    assert (found, out) == (code, "")
    one_sentence(err, start.format(here=tmp_path))
