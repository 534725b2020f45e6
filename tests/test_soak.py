"""Captions for weeks, in short: many images, faults of all kinds, and memory that does not grow.

`make soak` runs it with 1,000 images each and prints what docs/camera.md states.
"""

import ctypes
import io
import json
import os
import random
import resource
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageDraw

from tests.test_cli import ROOT

COUNTS = [30, pytest.param(1000, marks=pytest.mark.soak)]
# How much the anonymous memory of a process may grow per image in the second half; how much of mapped files is in
# memory, the system decides. One image every 10 seconds for three weeks are 181,440: 100 bytes for each are 18 MB.
MOST_BYTES_PER_IMAGE = 100
FAULTS = ("cut", "empty", "text", "unreadable", "too large")
KEPT_FILES = 100


def picture(seed: int) -> bytes:
    """A drawing of a few rectangles on a plain ground, as JPEG."""
    dice = random.Random(seed)
    size = dice.randrange(90, 330), dice.randrange(90, 330)
    image = Image.new("RGB", size, _color(dice))
    draw = ImageDraw.Draw(image)
    for _ in range(dice.randrange(1, 4)):
        x, y = dice.randrange(size[0] - 40), dice.randrange(size[1] - 40)
        draw.rectangle((x, y, x + 40, y + 40), fill=_color(dice))
    file = io.BytesIO()
    image.save(file, "JPEG")
    return file.getvalue()


def _color(dice: random.Random) -> tuple[int, int, int]:
    return dice.randrange(256), dice.randrange(256), dice.randrange(256)


def put(folder: Path, number: int, fault: str | None) -> Path:
    """Write image `number`, or a file that is none, as a whole."""
    path = folder / f"{number:05}.jpg"
    part = folder / f"{number:05}.part"
    data = picture(number)
    part.write_bytes({"cut": data[: len(data) // 2], "empty": b"", "text": b"no image"}.get(fault or "", data))
    if fault == "unreadable":
        part.chmod(0)
    if fault == "too large":
        os.truncate(part, 70 << 20)  # a hole
    part.rename(path)
    return path


def obey_permissions() -> None:
    """Let root be refused what a file's mode refuses: drop CAP_DAC_OVERRIDE and CAP_DAC_READ_SEARCH."""
    for capability in (1, 2):
        ctypes.CDLL(None).prctl(24, capability, 0, 0, 0)


def start(log: Path, *arguments: object) -> subprocess.Popen:
    """`embernet caption` with the built-in model; what it says is added to the log."""
    with open(log, "ab") as file:
        return subprocess.Popen(
            [sys.executable, "-m", "embernet", "caption", "-m", "spark", "-t", "1", *map(str, arguments)],
            env=os.environ | {"PYTHONPATH": str(ROOT)},
            stdout=subprocess.DEVNULL,
            stderr=file,
            preexec_fn=obey_permissions,  # noqa: PLW1509  (no threads here)
        )


def wait_until(condition: Callable[[], bool], process: subprocess.Popen) -> None:
    deadline = time.monotonic() + 300
    while not condition():
        assert process.poll() is None, "ended by itself"
        assert time.monotonic() < deadline, "nothing happens"
        time.sleep(0.02)


def lines(path: Path) -> int:
    return path.read_bytes().count(b"\n") if path.exists() else 0


def growth(records: list[dict]) -> dict[str, float]:
    """Bytes per image by the least-squares line through the second half of the records of one process."""
    half = [record["memory"] for record in records[len(records) // 2 :]]
    return {
        name: float(np.polyfit(np.arange(len(half)), [memory[name] for memory in half], 1)[0])
        for name in ("rss_bytes", "pss_bytes", "anonymous_bytes")
    }


def report(name: str, count: int, records: list[dict], **values: object) -> None:
    last = records[-1]["memory"]
    figures = {"images": count, "measured_images": len(records) // 2, "bytes_per_image": growth(records), "last": last}
    sys.stdout.write(f"\n{name}: {json.dumps(figures | values, indent=2)}\n")


@pytest.mark.parametrize("count", COUNTS)
def test_a_folder_that_fills_for_long(tmp_path, count):
    """Files that are no images, a process that is killed again and again, and a disk that is full for a while."""
    folder, output, log = tmp_path / "in", tmp_path / "out.jsonl", tmp_path / "log"
    folder.mkdir()
    faults = {number: FAULTS[number // 12 % len(FAULTS)] for number in range(5, count, 12)}
    kills = {round(count * share) for share in ((0.1, 0.25) if count < 100 else np.linspace(0.02, 0.4, 10))}
    full_from, full_to = round(count * 0.45), round(count * 0.49)
    command = ("--watch", folder, "-o", output)
    process = start(log, *command)
    unfinished = None
    for number in range(count):
        if number in faults or number % 5:
            put(folder, number, faults.get(number))
        else:  # begun now, finished when the next one is begun
            if unfinished is not None:
                unfinished.close()
            unfinished = open(folder / f"{number:05}.jpg", "wb")  # noqa: SIM115
            data = picture(number)
            unfinished.write(data[: len(data) // 2])
            unfinished.flush()
            unfinished.write(data[len(data) // 2 :])
        if number in kills:
            written = lines(output)
            wait_until(lambda written=written: lines(output) > written, process)
            process.kill()
            process.wait()
        elif number - 1 in kills or number - 2 in kills:
            continue  # files come while nobody looks
        elif number - 3 in kills:
            process = start(log, *command)
        if number == full_from:
            wait_until(lambda least=number - 5: lines(output) >= least, process)
            limit = output.stat().st_size + 100  # within a line
            resource.prlimit(process.pid, resource.RLIMIT_FSIZE, (limit, resource.RLIM_INFINITY))
        elif number == full_to:
            wait_until(lambda: b"cannot be written for now" in log.read_bytes(), process)
            resource.prlimit(process.pid, resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
        if number % 10 == 0 and process.poll() is None:
            wait_until(lambda least=number - KEPT_FILES: lines(output) >= least, process)
        if (old := number - 2 * KEPT_FILES) >= 0:  # somebody tidies up
            (folder / f"{old:05}.jpg").unlink()
    assert unfinished is not None
    unfinished.close()
    wait_until(lambda: lines(output) >= count, process)
    process.send_signal(signal.SIGTERM)
    assert process.wait(60) == 0

    records = [json.loads(line) for line in output.read_bytes().splitlines()]
    found = Counter((int(Path(record["input"]["path"]).stem), record["schema"]) for record in records)
    expected = [(n, "embernet.error/1" if n in faults else "embernet.caption/1") for n in range(count)]
    assert found == Counter(expected)  # each once, nothing lost, nothing else
    said = log.read_text().splitlines()
    failures = Counter(line.split(".jpg: ")[0] for line in said if ".jpg: " in line)
    assert set(failures.values()) == {1}
    assert len(failures) >= len(faults) - len(kills)  # one that was killed between recording and saying it says nothing
    assert sum("cannot be written for now" in line for line in said) == 1
    assert sum("can be written again" in line for line in said) == 1
    assert not any("Traceback" in line for line in said)
    captions = [record for record in records if "memory" in record]
    last = [record for record in captions if record["timings"]["load_ms"] == captions[-1]["timings"]["load_ms"]]
    if count >= 1000:
        report("folder", count, last, faults=len(faults), kills=len(kills), full=full_to - full_from)
        assert len(last) > count // 2
        assert growth(last)["anonymous_bytes"] < MOST_BYTES_PER_IMAGE


@pytest.mark.parametrize("count", COUNTS)
def test_a_camera_that_fails_every_seventh_time(tmp_path, count):
    count = count if count >= 1000 else 8
    output, log, camera = tmp_path / "out.jsonl", tmp_path / "log", tmp_path / "still"
    for number in range(20):
        (tmp_path / f"{number}.jpg").write_bytes(picture(number))
    camera.write_text(
        "#!/bin/sh\ncd $(dirname $0)\n"
        "read n < n || n=0\nn=$((n + 1))\necho $n > n\n"
        "[ $((n % 7)) = 0 ] && { echo failure $n. >&2; exit 1; }\n"
        "cat $((n % 20)).jpg\n"
    )
    camera.chmod(0o755)
    (tmp_path / "n").write_text("0\n")
    process = start(log, "--camera-command", camera, "--count", count, "-o", output)
    assert process.wait(3600) == 0
    records = [json.loads(line) for line in output.read_bytes().splitlines()]
    runs = int((tmp_path / "n").read_text())
    assert [record["schema"] for record in records] == ["embernet.caption/1"] * count
    assert count == runs - runs // 7
    said = log.read_text()
    for number in range(7, runs + 1, 7):
        assert said.count(f"failure {number}.") == 1
    assert said.count("still: ended with 1 (failure ") == said.count("works again after 1 failure\n") == runs // 7
    if count >= 1000:
        report("camera", count, records, failures=runs // 7)
        assert growth(records)["anonymous_bytes"] < MOST_BYTES_PER_IMAGE
