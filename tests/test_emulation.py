"""The emulated machine's host side; with `-m emulated` also the machine itself, which needs root and minutes."""

import json
import shutil
import subprocess

import numpy as np
import pytest

from embernet.device.boards import PI_ZERO_2_W
from embernet.device.emulation import guest, icount, machine
from embernet.device.estimate import estimate, estimate_range
from embernet.errors import EmbernetError, MissingExtraError
from embernet.runtime.bundle import WEIGHTS_FILE, file_sha256, open_bundle


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
    assert icount.tables(kept) in icount.PAGE.read_text(encoding="utf-8")


@pytest.mark.emulated
@pytest.mark.parametrize("isa", icount.GUEST_ISAS)
def test_the_published_models_tokens_on_the_emulated_cpu(exact_bundle, io, tmp_path, isa):
    np.save(tmp_path / "pixels.npy", io["pixel_values"])
    job = {"step": "tokens", "bundle": "exact.ember", "images": ["pixels.npy"], "new_tokens": 7, "isa": isa}
    files = {"exact.ember": exact_bundle, "pixels.npy": tmp_path / "pixels.npy"}
    folder = machine.ROOT / "build" / "emulation"
    found = machine.run([job | {"input_ids": io["input_ids"][0].tolist()}], files, folder, icount.MEMORY_MB)
    assert found == [[io["greedy_ids"].tolist()]]
