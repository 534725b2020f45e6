"""The emulated machine's host side; with `-m emulated` also the machine itself, which needs root and minutes."""

import copy
import json
import os
import shutil
import subprocess
import sys

import numpy as np
import pytest

from embernet.device.boards import PI_ZERO_2_W
from embernet.device.emulation import board, board_guest, debian, guest, icount, machine, user_mode
from embernet.device.estimate import estimate, estimate_range
from embernet.errors import EmbernetError, MissingExtraError
from embernet.runtime import load
from embernet.runtime.bundle import WEIGHTS_FILE, file_sha256, open_bundle
from tests.conftest import EXAMPLES
from tests.native_builds import build, can_emulate, is_x86

ARM64_PYTHON = debian.ROOT / "build" / "emulation" / "python"


def test_results_are_read_from_the_console(capsys):
    console = ["[    0.0] Booting Linux\r\n", "{'step': 'tokens'}\r\n", "result: [[1, 2]]\r\n", "\r\n", "result: 2.5\n"]
    assert machine.read_results(console, expected=2) == [[[1, 2]], 2.5]
    assert "Booting Linux" in capsys.readouterr().err


def test_a_machine_that_dies_says_why():
    with pytest.raises(EmbernetError, match="1 of 2 steps .its last words: MemoryError"):
        machine.read_results(["result: 1\n", "Traceback\n", "MemoryError\n"], expected=2)


def test_missing_programs_are_named_together(monkeypatch):
    monkeypatch.setattr(machine.shutil, "which", lambda program: None)
    with pytest.raises(MissingExtraError) as caught:
        machine.require_host()
    assert "qemu-system-arm" in caught.value.hint
    assert "mmdebstrap" in caught.value.hint


@pytest.mark.skipif(shutil.which("cpio") is None, reason="needs cpio")
def test_the_initial_ram_disk_can_be_unpacked(tmp_path):
    archive = machine.cpio({"bin": None, "bin/busybox": b"12345", "init": b"#!/bin/sh\n"})
    subprocess.run(["cpio", "-i", "--quiet"], input=archive, check=True, cwd=tmp_path)
    assert (tmp_path / "bin" / "busybox").read_bytes() == b"12345"
    assert (tmp_path / "init").stat().st_mode & 0o111


def test_a_profile_is_summed_per_run_and_operator():
    def node(ts: int, dur: int, shape: list[int]) -> dict:
        arguments = {"op_name": "MatMul", "input_type_shape": [{"float": shape}, {"float": []}]}
        return {"cat": "Node", "name": "x_kernel_time", "ts": ts, "dur": dur, "args": arguments}

    runs = [{"cat": "Session", "name": "model_run", "ts": ts, "dur": 100} for ts in (0, 200)]
    profile = [*runs, node(10, 5, [1, 2]), node(210, 20, [1, 2]), node(240, 30, [3, 4]), node(280, 15, [1, 2])]
    assert guest.summarize(profile, -1) == [
        ("MatMul 1x2", 2, pytest.approx(0.035)),
        ("MatMul 3x4", 1, pytest.approx(0.030)),
        ("the whole run", 1, pytest.approx(0.1)),
    ]
    assert guest.summarize(profile, -2)[0] == ("MatMul 1x2", 1, pytest.approx(0.005))


def test_the_slower_side_of_an_estimate_counts():
    central = PI_ZERO_2_W.central
    token = estimate(100, 88.3, threads=4, clock_ghz=1, assumed=central)
    assert token.compute_ms == pytest.approx(100 * 1.5 / (4 * 0.85))
    assert token.ms == token.memory_ms == pytest.approx(44.15)
    assert estimate(1000, 88.3, 4, 1, central).ms == pytest.approx(1000 * 1.5 / 3.4)
    assert estimate(1000, 0, 1, 2, central).ms == 750
    time = estimate_range(100, 88.3, 4, PI_ZERO_2_W)
    assert time.central == token
    assert time.fast.ms < token.ms < time.slow.ms


def test_three_percent_more_instructions_are_a_regression():
    kept = {"spark": {"millions": {"vision": 100.0, "decode": 10.0}}}
    assert icount.regressions(kept, {"spark": {"millions": {"vision": 103.0, "decode": 9.0}}}) == []
    (line,) = icount.regressions(kept, {"spark": {"millions": {"vision": 103.1, "decode": 10.0}}})
    assert line == "spark: vision has 3.1% more instructions (103.1 M, was 100.0 M)"
    assert icount.regressions(kept, {"full": {"millions": {}}}) == [
        "full: no counts are kept to compare with (add --write)"
    ]


def test_the_bytes_of_a_stage_are_those_of_its_graph():
    bundle = open_bundle("spark")
    sizes = icount.weight_bytes(bundle)
    assert 0 < sizes["decode"] < sizes["prefill"]
    total = sizes["vision"] + sizes["prefill"]  # the embedding's rows are the head's
    assert total == pytest.approx((bundle.path / WEIGHTS_FILE).stat().st_size, rel=0.1)


def test_the_kept_counts_are_of_the_built_in_model_and_on_their_page():
    kept = json.loads(icount.KEPT.read_text())
    assert kept["schema"] == icount.SCHEMA
    assert kept["models"]["spark"]["weights_sha256"] == file_sha256(open_bundle("spark").path / WEIGHTS_FILE)
    assert icount.tables(kept) == icount.TABLES.read()


@pytest.fixture
def job(tmp_path, monkeypatch):
    """Run steps as the board does -> what the host reads on the console."""
    busybox = tmp_path / "programs" / "busybox"
    busybox.parent.mkdir()
    busybox.write_text("#!/bin/sh\necho '[1.0] Booting Linux'\necho '[9.0] Out of memory: Killed process 7 (python)'\n")
    busybox.chmod(0o755)
    monkeypatch.setenv("PATH", str(busybox.parent), prepend=os.pathsep)
    monkeypatch.setattr(sys, "argv", ["board_guest", str(tmp_path)])
    monkeypatch.chdir(tmp_path)  # the steps go elsewhere
    (tmp_path / "work").mkdir()
    (tmp_path / "work" / "hello.txt").write_text("hello\n")

    def run(steps: list[dict], capsys: pytest.CaptureFixture[str]) -> list:
        (tmp_path / "job.json").write_text(json.dumps(steps))
        board_guest.main()
        return machine.read_results(capsys.readouterr().out.splitlines(), len(steps) + 2)

    return run


def test_the_board_runs_steps_and_reports_on_each(job, capsys):
    speak = "print('stage: talk', flush=True); import time; time.sleep(0.2); print(open('hello.txt').read())"
    system, spoken, failed, messages = job(
        [
            {"name": "speak", "command": [sys.executable, "-c", speak]},
            {"name": "fail", "command": [sys.executable, "-c", "raise SystemExit(5)"]},
        ],
        capsys,
    )
    assert system["memory_total_bytes"] > system["memory_available_bytes"] > 0
    assert (spoken["name"], spoken["exit_code"], spoken["output"]) == ("speak", 0, ["hello", ""])
    assert spoken["peak_pss_bytes"] == spoken["stages"]["talk"]["proportional_bytes"] > 0
    assert failed["exit_code"] == 5
    assert messages == ["[9.0] Out of memory: Killed process 7 (python)"]


def test_a_steps_bars_and_complaints_do_not_hide_results(job, capsys):
    program = "import sys; sys.stderr.write('no newline at the end ' + str(sys.stderr.isatty()))"
    _, step, _ = job([{"name": "complain", "command": [sys.executable, "-c", program]}], capsys)
    assert step["output"] == []


def test_the_board_hands_its_wheel_nothing_of_the_checkout(job, capsys, monkeypatch):
    monkeypatch.setenv("PYTHONPATH", "/somewhere")
    command = [sys.executable, "-c", "import os; print(os.environ.get('PYTHONPATH'))"]
    _, step, _ = job([{"name": "look", "command": command}], capsys)
    assert step["output"] == ["None"]


def test_the_kept_board_is_as_promised_and_on_its_page():
    kept = json.loads(board.KEPT.read_text())
    assert kept["schema"] == board.SCHEMA
    assert kept["emulated"] is True
    assert kept["models"]["full"]["parameters"] == 840_804_992
    assert len(kept["answers"][board.FULL_SIZE]) == board.NEW_TOKENS
    assert board.complaints(kept) == []
    assert board.tables(kept) == board.TABLES.read()


def test_what_is_not_as_promised_is_named():
    result = copy.deepcopy(json.loads(board.KEPT.read_text()))
    result["swap_bytes"] = 4096
    result["kernel_complaints"] = ["Out of memory: Killed process 7"]
    steps = {step["name"]: step for step in result["steps"]}
    steps[board.FULL_SIZE] |= {"peak_pss_bytes": 300_100_000, "peak_anonymous_bytes": 80_000_000}
    steps[board.CAPTION]["peak_pss_bytes"] = 81_000_000
    assert board.complaints(result) == [
        "the board has swap (found 4096 bytes, expected none)",
        "the kernel says: Out of memory: Killed process 7",
        "caption a folder: too much PSS (found 81.0 MB, expected up to 80)",
        "full-size answer: too much PSS (found 300.1 MB, expected up to 300)",
    ]


@pytest.mark.parametrize(("kills", "reason"), [(0, "exit code 1"), (1, "had no memory left")])
def test_a_step_that_fails_on_the_board_is_named(tmp_path, monkeypatch, kills, reason):
    step = {"name": "caption", "exit_code": 1, "oom_kills": kills}
    monkeypatch.setattr(machine, "make_system", lambda folder: tmp_path / "disk.img")
    monkeypatch.setattr(machine, "make_job", lambda *arguments: tmp_path / "job.img")
    monkeypatch.setattr(machine, "boot", lambda *arguments, expected: [{}, step, []])
    with pytest.raises(EmbernetError, match=f"caption: failed on the board.*{reason}"):
        board._boot(tmp_path, [board.Step("caption", ("embernet",))], {})


@pytest.mark.skipif(
    not (is_x86() and can_emulate() and (ARM64_PYTHON / "made-from").is_file()),
    reason="needs make foreign-python, qemu-aarch64-static and aarch64-linux-gnu-g++",
)
def test_a_caption_on_the_cpu_of_a_raspberry_pi(tmp_path):
    debian.copy_package(tmp_path)
    shutil.copy(build("embernet_ops", "aarch64") / "libembernet_ops.so", tmp_path / "embernet" / "runtime")
    image = EXAMPLES / "scene.png"
    command = user_mode.python(ARM64_PYTHON, tmp_path, ["-m", "embernet", "caption", "-t", "1", "--jsonl", str(image)])
    done = subprocess.run(
        command, check=True, stdout=subprocess.PIPE, text=True, env=os.environ | {"EMBERNET_ISA": "neon"}
    )
    assert json.loads(done.stdout)["text"] == load("spark").caption(image).text


@pytest.mark.emulated
@pytest.mark.parametrize("isa", icount.GUEST_ISAS)
def test_the_published_models_tokens_on_the_emulated_cpu(exact_bundle, io, tmp_path, isa):
    np.save(tmp_path / "pixels.npy", io["pixel_values"])
    job = {"step": "tokens", "bundle": "exact.ember", "images": ["pixels.npy"], "new_tokens": 7, "isa": isa}
    files = {"exact.ember": exact_bundle, "pixels.npy": tmp_path / "pixels.npy"}
    folder = debian.ROOT / "build" / "emulation"
    found = machine.run([job | {"input_ids": io["input_ids"][0].tolist()}], files, folder, icount.MEMORY_MB)
    assert found == [[io["greedy_ids"].tolist()]]
