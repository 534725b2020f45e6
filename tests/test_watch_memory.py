"""Memory of a program, looked at from outside."""

import json
import subprocess
import sys

import pytest

from embernet.device.watch_memory import START, watch

MB = 2**20
# Holds 60 MB while it is in its second stage, and says so.
PROGRAM = """
import time
print("stage: large", flush=True)
held = bytearray(60 << 20)
time.sleep(0.3)
del held
print("stage: small", flush=True)
time.sleep(0.3)
print("done")
"""


def stage_of(line: str) -> str | None:
    return line.removeprefix("stage: ") if line.startswith("stage: ") else None


def test_each_stage_has_a_peak_of_its_own():
    lines = []

    def read(line: str) -> str | None:
        lines.append(line)
        return stage_of(line)

    watched = watch([sys.executable, "-c", PROGRAM], read, interval_s=0.002)
    assert watched.exit_code == 0
    assert lines == ["stage: large", "stage: small", "done"]
    assert list(watched.stages) == [START, "large", "small"]
    large = watched.stages["large"]
    assert large.anonymous_bytes > 60 * MB
    assert large.proportional_bytes >= large.anonymous_bytes
    assert watched.peak.anonymous_bytes == large.anonymous_bytes
    small = watched.stages["small"]
    assert small.record_bytes > 60 * MB > small.resident_bytes
    assert 0 < large.samples < watched.peak.samples


def test_the_processes_it_starts_are_part_of_it():
    child = "import time; held = bytearray(60 << 20); time.sleep(0.3)"
    parent = f"import subprocess, sys; held = bytearray(30 << 20); subprocess.run([sys.executable, '-c', {child!r}])"
    watched = watch([sys.executable, "-c", parent], stage_of, interval_s=0.002)
    assert watched.peak.anonymous_bytes > 90 * MB
    assert 60 * MB < watched.peak.record_bytes < 90 * MB  # of one of them


def test_a_program_that_a_signal_ends():
    watched = watch([sys.executable, "-c", "import os; os.kill(os.getpid(), 9)"], stage_of)
    assert watched.exit_code == -9


def test_a_program_that_does_not_exist():
    with pytest.raises(FileNotFoundError):
        watch(["no-such-program"], stage_of)


def test_the_command_passes_output_and_exit_code_on():
    command = [sys.executable, "-m", "embernet.device.watch_memory", "--interval-ms", "2", "--"]
    program = [sys.executable, "-c", "print('an answer'); raise SystemExit(3)"]
    done = subprocess.run([*command, *program], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (3, "an answer\n")
    result = json.loads(done.stderr)
    assert result["schema"] == "embernet.memory/1"
    assert result["exit_code"] == 3
    assert result["peak_rss_bytes"] > MB


def test_the_command_names_a_program_that_does_not_exist():
    command = [sys.executable, "-m", "embernet.device.watch_memory", "--", "no-such-program"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert "no-such-program: cannot be started (No such file or directory)" in done.stderr
