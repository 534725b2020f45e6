"""What the board says about its heat, clock and swap, from files and a program like those of a Raspberry Pi."""

from pathlib import Path

import pytest

from embernet.device.health import Throttling, read_health


@pytest.fixture
def board(tmp_path: Path) -> Path:
    """A root folder with the files that a Raspberry Pi has."""
    files = {
        "proc/meminfo": "MemTotal: 421000 kB\nSwapTotal: 102396 kB\nSwapFree: 100000 kB\n",
        "proc/swaps": "Filename Type Size Used\n/var/swap file 2396 0\n/dev/zram0 partition 100000 2396\n",
        "sys/class/thermal/thermal_zone0/temp": "48312\n",
        "sys/devices/system/cpu/cpu0/cpufreq/scaling_cur_freq": "1000000\n",
        "sys/devices/system/cpu/cpu0/cpufreq/scaling_governor": "ondemand\n",
    }
    for name, text in files.items():
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return tmp_path


def vcgencmd(folder: Path, script: str, monkeypatch: pytest.MonkeyPatch) -> None:
    program = folder / "bin" / "vcgencmd"
    program.parent.mkdir()
    program.write_text(f"#!/bin/sh\n{script}\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", str(program.parent), prepend=":")


def test_what_a_raspberry_pi_tells(board: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    vcgencmd(tmp_path, "[ $1 = get_throttled ] && echo throttled=0x50005", monkeypatch)
    health = read_health(board)
    assert health.temperature_c == pytest.approx(48.312)
    assert health.frequency_mhz == pytest.approx(1000)
    assert health.governor == "ondemand"
    assert (health.swap_bytes, health.swap_used_bytes, health.zram_bytes) == (102396 << 10, 2396 << 10, 100000 << 10)
    assert health.throttling == Throttling(("under-voltage", "throttled"), ("under-voltage", "throttled"))


@pytest.mark.parametrize("script", ["exit 1", "echo what", "echo throttled=zz"])
def test_a_program_that_fails_says_nothing(script: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    vcgencmd(tmp_path, script, monkeypatch)
    assert read_health(tmp_path).throttling is None


def test_a_machine_that_tells_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    health = read_health(tmp_path)
    assert (health.temperature_c, health.throttling, health.frequency_mhz, health.governor) == (None,) * 4
    assert (health.swap_bytes, health.swap_used_bytes, health.zram_bytes) == (None, None, 0)
