"""Watching a board during a benchmark: what is recorded, what makes a run invalid, and when a program is started."""

from pathlib import Path
from typing import Any

import pytest

from embernet.device import bandwidth
from embernet.device.bench import run_bench
from embernet.device.board_watch import SWAPPED_OUT_LIMIT, Watch
from tests.test_bench import machine
from tests.test_health import vcgencmd

PAGE = 4096


@pytest.fixture(autouse=True)
def _usual_pages(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("os.sysconf", lambda name: PAGE)


def set_board(root: Path, temperature: int = 48312, clock: int = 1000000, swap_free: int = 100, out: int = 7) -> None:
    machine(
        root,
        sys__class__thermal__thermal_zone0__temp=f"{temperature}\n",
        sys__devices__system__cpu__cpu0__cpufreq__scaling_cur_freq=f"{clock}\n",
        sys__devices__system__cpu__cpu0__cpufreq__scaling_governor="ondemand\n",
        proc__meminfo=f"MemTotal: 421000 kB\nSwapTotal: 100 kB\nSwapFree: {swap_free} kB\n",
        proc__swaps="Filename Type Size Used\n/dev/zram0 partition 100 0\n",
        proc__vmstat=f"pswpin 3\npswpout {out}\n",
    )


@pytest.fixture
def board(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A root folder; `bits` in it is what vcgencmd says, `asked` has a line for every time it was."""
    set_board(tmp_path)
    (tmp_path / "bits").write_text("0x0")
    vcgencmd(tmp_path, f"echo $1 >> {tmp_path}/asked; echo throttled=$(cat {tmp_path}/bits)", monkeypatch)
    return tmp_path


def asked(root: Path) -> int:
    return len((root / "asked").read_text().splitlines())


def test_the_course_of_a_run(board: Path) -> None:
    watch = Watch(board)
    set_board(board, temperature=61000, clock=600000)
    watch.glance()
    set_board(board, temperature=55000, clock=900000, swap_free=60, out=17)
    watch.look()
    values = watch.to_dict()
    assert values["temperature_c"] == {"start": pytest.approx(48.312), "end": 55, "max": 61}
    assert values["frequency_mhz"] == {"start": 1000, "end": 900, "min": 600}
    assert values["governor"] == "ondemand"
    assert values["throttled"] == {"now": [], "occurred": [], "occurred_before": []}
    assert (values["swap_bytes"], values["zram_bytes"]) == (100 << 10, 100 << 10)
    assert values["swap_used_bytes"] == {"start": 0, "end": 40 << 10}
    assert values["swapped_out_bytes"] == 10 * PAGE
    assert (values["valid"], values["invalid_reasons"]) == (True, [])
    course = watch.course()
    assert course["temperature_c"] == [pytest.approx(48.312), 61, 55]
    assert course["frequency_mhz"] == [1000, 600, 900]
    assert course["at_s"] == sorted(course["at_s"])


def test_a_glance_starts_no_program(board: Path) -> None:
    watch = Watch(board)
    watch.glance()
    assert asked(board) == 1
    watch.look()
    assert asked(board) == 2


@pytest.mark.parametrize(
    ("looks", "names", "now", "before"),
    [
        (["0x0", "0x50005", "0x50000"], "under-voltage, throttled", ["under-voltage", "throttled"], []),
        (["0x8", "0x0", "0x0"], "soft temperature limit", ["soft temperature limit"], []),
        # Over before it was looked at again, but it is remembered.
        (["0x10000", "0x30000", "0x30000"], "frequency capped", [], ["under-voltage"]),
        (["0x50000", "0x50000", "0x50000"], None, [], ["under-voltage", "throttled"]),
    ],
)
def test_throttling_at_any_look_spoils_a_run(board: Path, looks, names, now, before) -> None:
    (board / "bits").write_text(looks[0])
    watch = Watch(board)
    (board / "bits").write_text(looks[1])
    watch.look()
    (board / "bits").write_text(looks[2])
    watch.look_at_throttling()
    values = watch.to_dict()
    assert values["valid"] is (names is None)
    assert values["invalid_reasons"] == ([] if names is None else [f"the board slowed itself down: {names}"])
    assert values["throttled"]["now"] == now
    assert values["throttled"]["occurred_before"] == before


def test_a_board_that_does_not_answer_at_the_end_has_not_told_whether_it_throttled(board: Path) -> None:
    watch = Watch(board)
    (board / "bits").write_text("no answer")
    watch.look()
    assert watch.to_dict()["throttled"] == {"now": None, "occurred": None, "occurred_before": None}
    (board / "bits").write_text("0x10000")
    watch.look_at_throttling()
    assert watch.to_dict()["throttled"] == {"now": [], "occurred": ["under-voltage"], "occurred_before": []}
    assert watch.to_dict()["valid"] is False


@pytest.mark.parametrize(
    ("pages", "valid"), [(SWAPPED_OUT_LIMIT // PAGE, True), (SWAPPED_OUT_LIMIT // PAGE + 1, False)]
)
def test_memory_that_went_out_to_swap_spoils_a_run(board: Path, pages: int, valid: bool) -> None:
    watch = Watch(board)
    set_board(board, out=7 + pages)
    watch.look_at_throttling()  # what needs memory after the last look is no part of the run
    assert watch.to_dict()["swapped_out_bytes"] == 0
    watch.look()
    assert watch.to_dict()["valid"] is valid
    assert watch.to_dict()["invalid_reasons"] == ([] if valid else ["memory was short: 1.05 MB went out to swap"])


@pytest.mark.parametrize("vmstat", [None, "", "pgfault 3\n"])
def test_a_machine_that_tells_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, vmstat: str | None) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    if vmstat is not None:
        machine(tmp_path, proc__vmstat=vmstat)
    watch = Watch(tmp_path)
    watch.look()
    assert watch.to_dict() == {
        "valid": True,
        "invalid_reasons": [],
        "temperature_c": {"start": None, "end": None, "max": None},
        "frequency_mhz": {"start": None, "end": None, "min": None},
        "governor": None,
        "throttled": {"now": None, "occurred": None, "occurred_before": None},
        "swap_bytes": None,
        "zram_bytes": 0,
        "swap_used_bytes": {"start": None, "end": None},
        "swapped_out_bytes": None,
    }
    assert watch.course()["temperature_c"] == [None, None]


def test_a_benchmark_watches_its_board(board: Path, tiny_bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bandwidth, "available_bytes", lambda: 1 << 21)
    monkeypatch.setattr(bandwidth, "PASSES", 1)
    steps = 0

    def hotter(_count: int) -> None:
        nonlocal steps
        steps += 1
        set_board(board, temperature=50000 + 1000 * steps)
        (board / "bits").write_text("0x4" if steps == 6 else "0x0")  # the decode of the first round that counts

    result: dict[str, Any] = run_bench(str(tiny_bundle), repetitions=2, n_gen=2, root=board, progress=hotter)
    assert result["valid"] is False
    assert result["throttled"]["now"] == ["throttled"]
    assert result["temperature_c"] == {"start": pytest.approx(48.312), "end": 59, "max": 59}
    # Before and after the load, after each of three rounds, and after the bandwidth; never while something is timed.
    assert asked(board) == 6
    course = result["course"]
    assert len(course["at_s"]) == len(course["temperature_c"]) == len(course["frequency_mhz"]) == 5 + 9
    assert len(course["decode_start_s"]) == 2
    first, second = course["decode_start_s"]
    assert second - first > sum(result["samples"]["decode_ns"][0]) / 1e9
    assert second < course["at_s"][-1]
