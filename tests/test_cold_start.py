"""Fresh processes up to their first token, and files that leave the page cache."""

import errno
import mmap
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from embernet.device import start
from embernet.device.fresh_process import STAGES
from embernet.device.page_cache import drop_from_page_cache
from embernet.device.start import fresh_start, measure_starts
from embernet.errors import EmbernetError, InputError, OutOfMemoryError
from embernet.runtime.bundle import open_bundle

OPTIONS: dict[str, Any] = {
    "threads": 1,
    "hugepages": False,
    "spin": False,
    "n_prompt": 3,
    "n_gen": 1,
    "image": None,
}


def in_memory(path: Path) -> bool:
    done = subprocess.run(["stat", "-f", "-c", "%T", path], capture_output=True, text=True, check=True)
    return done.stdout.strip() in ("tmpfs", "ramfs")


def test_a_fresh_process_says_what_its_first_token_took(tiny_bundle: Path) -> None:
    values = fresh_start(open_bundle(tiny_bundle), **OPTIONS)
    assert list(values)[: len(STAGES)] == list(STAGES)
    assert all(values[stage] > 0 for stage in STAGES)
    assert values["total_ms"] == pytest.approx(sum(values[stage] for stage in STAGES))
    assert values["anonymous_bytes"] < values["peak_rss_bytes"]


@pytest.mark.skipif(sys.version_info < (3, 11), reason="older ones always look there")
def test_a_fresh_process_imports_nothing_from_where_it_is_started(
    tiny_bundle: Path, tmp_path: Path, monkeypatch
) -> None:
    """The command line does not, either: a folder may hold a `json.py` of its own."""
    (tmp_path / "json.py").write_text("raise SystemExit('wrong')")
    monkeypatch.chdir(tmp_path)
    assert fresh_start(open_bundle(tiny_bundle), **OPTIONS)["total_ms"] > 0


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"image": "nothing.png"}, "nothing.png: no such file"),
        ({"n_prompt": 1000}, "tiny: the tokens do not fit the context"),
    ],
)
def test_what_is_wrong_in_a_fresh_process_is_said_here(tiny_bundle: Path, change: dict, message: str) -> None:
    with pytest.raises(InputError, match=f"^{message}"):
        fresh_start(open_bundle(tiny_bundle), **OPTIONS | change)


@pytest.mark.parametrize(
    ("script", "kind", "message"),
    [
        ("kill -9 $$", OutOfMemoryError, "tiny: a fresh process was killed, most likely for want of memory"),
        ("echo Oops: no >&2; exit 1", EmbernetError, "tiny: a fresh process failed .Oops: no."),
        ("exit 77", EmbernetError, "tiny: a fresh process failed .exit code 77."),
    ],
)
def test_a_fresh_process_that_ends_early(tiny_bundle: Path, tmp_path: Path, monkeypatch, script, kind, message) -> None:
    program = tmp_path / "python"
    program.write_text(f"#!/bin/sh\n{script}\n")
    program.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(program))
    with pytest.raises(EmbernetError, match=message) as error:
        fresh_start(open_bundle(tiny_bundle), **OPTIONS)
    assert type(error.value) is kind


@pytest.mark.parametrize("dropped", [True, False])
def test_a_start_is_cold_only_if_the_files_left_the_page_cache(tiny_bundle: Path, monkeypatch, dropped: bool) -> None:
    seen: list[object] = []

    def drop(paths: Any) -> bool:
        seen.append(sorted(path.name for path in paths))
        return dropped

    monkeypatch.setattr(start, "drop_from_page_cache", drop)
    monkeypatch.setattr(start, "fresh_start", lambda bundle, **_: seen.append("start") or {"total_ms": len(seen)})
    bundle, steps = open_bundle(tiny_bundle), []
    starts = measure_starts(bundle, steps.append, **OPTIONS)
    assert seen == [sorted([*bundle.manifest.files, "manifest.json"]), *["start"] * (1 + dropped)]
    assert starts["cold_start"] == ({"total_ms": 2} if dropped else None)
    assert starts["warm_start"] == {"total_ms": len(seen)}
    assert sum(steps) == start.STARTS


def test_files_leave_the_page_cache_or_that_is_said(tmp_path: Path) -> None:
    path, empty = tmp_path / "large", tmp_path / "empty"
    path.write_bytes(bytes(1 << 20))
    empty.touch()
    assert drop_from_page_cache([path, empty]) is not in_memory(tmp_path)
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as view:
        assert view[:] == bytes(1 << 20)  # all pages are mapped now, so they stay
        assert drop_from_page_cache([path, empty]) is False


def test_a_file_system_that_is_only_read_has_nothing_to_write_first(tmp_path: Path, monkeypatch) -> None:
    """SquashFS refuses it with EINVAL."""

    def refuse(descriptor: int) -> None:
        raise OSError(errno.EINVAL, "Invalid argument")

    path = tmp_path / "large"
    path.write_bytes(bytes(1 << 20))
    drop_from_page_cache([path])
    monkeypatch.setattr(os, "fsync", refuse)
    assert drop_from_page_cache([path]) is not in_memory(tmp_path)


@pytest.mark.skipif(not Path("/dev/shm").is_dir(), reason="no files in memory here")
def test_files_in_memory_cannot_be_cold() -> None:
    path = Path("/dev/shm") / "embernet-test-page-cache"
    path.write_bytes(bytes(1 << 16))
    try:
        assert drop_from_page_cache([path]) is False
    finally:
        path.unlink()


def test_cold_starts_are_part_of_a_result(cli, tiny_bundle: Path, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr("embernet.device.board_watch.swapped_out_bytes", lambda _root: 0)
    monkeypatch.setattr("embernet.device.bench.read_bandwidth", lambda *_: None)
    stages = dict.fromkeys(STAGES, 10.0)
    memory = {"peak_rss_bytes": 1_000_000, "proportional_bytes": None, "anonymous_bytes": None}
    warm = {**stages, "total_ms": 50.0, **memory}
    given: dict[str, Any] = {}

    def starts(bundle: Any, progress: Any, **options: Any) -> dict:
        given.update(options, bundle=bundle.path)
        return {"cold_start": None, "warm_start": warm}

    monkeypatch.setattr("embernet.device.bench.measure_starts", starts)
    path = tmp_path / "result.json"
    quick = ("-r", 1, "-n", 2, "-p", 3)
    code, out, _ = cli("bench", "-m", tiny_bundle, *quick, "--cold-start", "-t", 1, "-o", path)
    assert code == 0
    assert "cold start         unknown: the bundle's files stayed in memory\n" in out
    assert "warm start         50.0 ms: interpreter 10.0 ms, imports 10.0 ms, load" in out
    assert given == {**OPTIONS, "n_gen": 2, "bundle": tiny_bundle}
    assert cli("bench", "--from", path)[:2] == (0, out)
    assert cli("bench", "--from", path, "--json")[1].count('"warm_start_ms": 50.0') == 1
    assert "start" not in cli("bench", "-m", tiny_bundle, *quick)[1]
