"""What `embernet doctor` finds on machines made of files, and what it makes of them."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from embernet.device import doctor
from embernet.device.doctor import OK, PROBLEM, WARNING, Check, require_64_bit, run_checks
from embernet.errors import MissingExtraError
from tests.conftest import one_sentence

MEMINFO = "MemTotal: 421000 kB\nMemAvailable: {} kB\nSwapTotal: {} kB\nSwapFree: 50000 kB\n"


def write(root: Path, files: dict[str, str]) -> None:
    for name, text in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)


def program(path: Path, script: str) -> str:
    path.parent.mkdir(exist_ok=True)
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(0o755)
    return str(path)


@pytest.fixture
def board(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A Raspberry Pi Zero 2 W on which everything is right; its programs are the only ones there are."""
    root = tmp_path / "root"
    write(
        root,
        {
            "proc/device-tree/model": "Raspberry Pi Zero 2 W Rev 1.0\0",
            "proc/meminfo": MEMINFO.format(300000, 100000),
            "proc/swaps": "Filename Type Size Used\n/dev/zram0 partition 100000 0\n",
            "proc/sys/kernel/osrelease": "6.12.25+rpt-rpi-v8\n",
            "etc/os-release": 'NAME="Debian"\nPRETTY_NAME="Debian GNU/Linux 12 (bookworm)"\n',
            "sys/class/thermal/thermal_zone0/temp": "48312\n",
            "sys/devices/system/cpu/cpu0/cpufreq/scaling_governor": "ondemand\n",
            "sys/devices/system/cpu/cpu0/cpufreq/scaling_cur_freq": "600000\n",
            "dev/video0": "",
        },
    )
    program(tmp_path / "bin" / "vcgencmd", "echo throttled=0x0")
    program(tmp_path / "bin" / "rpicam-still", "")
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}{os.pathsep}/usr/bin{os.pathsep}/bin")
    monkeypatch.setattr(doctor, "isa_in_use", lambda: "neon")
    return root


@pytest.fixture
def check(board: Path, tmp_path: Path):
    """Look at the board -> one check by name. The engine's process only prints its versions."""

    def run(name: str, engine: str = "echo 2.4.6 1.31.1") -> Check:
        python = program(tmp_path / "bin" / "python-with-engine", engine)
        return {found.name: found for found in run_checks(board, python, tmp_path)}[name]

    return run


def test_a_board_in_order(board: Path, tmp_path: Path):
    checks = run_checks(board, program(tmp_path / "bin" / "python-with-engine", "echo 2.4.6 1.31.1"), tmp_path)
    assert {check.name: check.status for check in checks if check.status != OK and check.name != "extras"} == {}
    found = {check.name: check.found for check in checks}
    assert found["board"] == "Raspberry Pi Zero 2 W Rev 1.0 (profile pi-zero-2-w)"
    assert found["system"].startswith("Debian GNU/Linux 12 (bookworm), kernel 6.12.25+rpt-rpi-v8, ")
    assert found["engine"] == "onnxruntime 1.31.1, numpy 2.4.6"
    assert found["memory"] == "307 of 431 MB available"
    assert found["swap"] == "102 MB, 102 of them in compressed memory, 51 MB used"
    assert found["temperature"] == "48.3 °C"
    assert found["governor"] == "ondemand, 600 MHz now"
    assert found["camera"] == "rpicam-still, /dev/video0"
    assert dict(checks[5].values) == {"total_bytes": 421000 << 10, "available_bytes": 300000 << 10}


@pytest.mark.parametrize(
    ("name", "file", "text", "status", "found"),
    [
        ("memory", "proc/meminfo", MEMINFO.format(30000, 0), PROBLEM, "not enough for any model"),
        ("memory", "proc/meminfo", MEMINFO.format(90000, 0), WARNING, "enough for small models only"),
        ("memory", "proc/meminfo", "", WARNING, "not known here"),
        ("swap", "proc/meminfo", MEMINFO.format(300000, 0), WARNING, "none"),
        ("temperature", "sys/class/thermal/thermal_zone0/temp", "79000", WARNING, "79.0 °C"),
        ("governor", "sys/devices/system/cpu/cpu0/cpufreq/scaling_governor", "powersave", WARNING, "powersave"),
        ("board", "proc/device-tree/model", "linux,dummy-virt", WARNING, "emulated"),
    ],
)
def test_what_is_not_in_order(check, board: Path, name: str, file: str, text: str, status: str, found: str):
    write(board, {file: text})
    result = check(name)
    assert (result.status, found in result.found) == (status, True), result
    assert result.hint or name in ("board", "memory")


def test_a_board_without_its_programs(check, tmp_path: Path):
    for name in ("vcgencmd", "rpicam-still"):
        (tmp_path / "bin" / name).unlink()
    assert check("camera").status == WARNING
    assert check("camera").hint == "sudo apt install rpicam-apps-lite"
    assert check("throttling").status == WARNING
    program(tmp_path / "bin" / "libcamera-still", "")  # its name before Debian 12
    assert check("camera").status == OK


def test_another_machine_need_not_be_a_raspberry_pi(check, board: Path, tmp_path: Path):
    for name in ("vcgencmd", "rpicam-still"):
        (tmp_path / "bin" / name).unlink()
    (board / "proc/device-tree/model").unlink()
    assert [check(name).status for name in ("board", "camera", "throttling")] == [OK] * 3


def test_throttling_names_the_power_supply(check, tmp_path: Path):
    program(tmp_path / "bin" / "vcgencmd", "echo throttled=0x10000")
    assert check("throttling") == Check(
        "throttling",
        WARNING,
        "since it was started: under-voltage",
        "a power supply of 5 V and 2.5 A",
        {"now": [], "occurred": ["under-voltage"]},
    )
    program(tmp_path / "bin" / "vcgencmd", "echo throttled=0x80008")
    assert check("throttling").found == "now: soft temperature limit"


@pytest.mark.parametrize(
    ("engine", "found"),
    [
        ("echo 2.4.6 1.21.0", "onnxruntime 1.21.0, numpy 2.4.6: older than 1.22.1"),
        ("kill -ILL $$", "killed by signal 4"),
        ("echo 'Traceback\nModuleNotFoundError: No module named x' >&2; exit 1", "ModuleNotFoundError: No module"),
        ("exit 0", "no reason given"),
    ],
)
def test_an_engine_that_does_not_work(check, engine: str, found: str):
    result = check("engine", engine)
    assert (result.status, found in result.found) == (PROBLEM, True), result
    assert result.hint == "pip install --upgrade 'onnxruntime>=1.22.1' numpy"


@pytest.mark.skipif(sys.version_info < (3, 11), reason="older ones always look there")
def test_the_engine_is_not_looked_for_where_this_is_started(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    (tmp_path / "numbers.py").write_text("raise SystemExit('wrong')")
    monkeypatch.chdir(tmp_path)
    assert doctor._engine(sys.executable).status == OK


def test_a_model_folder_that_may_not_be_read(check, monkeypatch: pytest.MonkeyPatch):
    def refuse(path: Path) -> None:
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(doctor.shutil, "disk_usage", refuse)
    assert (check("disk").status, "permission denied" in check("disk").found) == (PROBLEM, True)


def test_kernels(check, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(doctor, "isa_in_use", lambda: "portable")
    assert check("kernels").status == WARNING
    monkeypatch.undo()
    monkeypatch.setenv("EMBERNET_ISA", "mmx")
    assert doctor._kernels().status == PROBLEM
    assert doctor._kernels().hint == "unset EMBERNET_ISA"
    monkeypatch.setattr(doctor, "find_library", lambda: None)
    assert (doctor._kernels().status, "g++" in doctor._kernels().hint) == (WARNING, True)


def test_extras_and_what_is_missing_of_them(monkeypatch: pytest.MonkeyPatch):
    requirements = [
        "numpy>=1.26",
        'pillow>=10; extra == "draw"',
        'no-such-package; extra == "dream"',
        "embernet[dream]; extra == 'all'",
        'no-such-package; python_version < "3" and extra == "draw"',
    ]
    monkeypatch.setattr(doctor.importlib.metadata, "requires", lambda name: requirements)
    result = doctor._extras()
    missing = ["no-such-package"]
    assert result.values == {"installed": ["draw"], "missing": {"all": missing, "dream": missing}}
    assert result.found == "draw; not all, dream (pip install 'embernet[NAME]')"


@pytest.mark.parametrize(
    ("machine", "bits", "found"),
    [
        ("armv7l", 32, "a kernel for armv7l with a 32-bit Python"),
        ("aarch64", 32, "a 64-bit kernel with a 32-bit Python"),
        ("i686", 32, "a kernel for i686 with a 32-bit Python"),
    ],
)
def test_32_bits_are_refused(machine: str, bits: int, found: str):
    with pytest.raises(MissingExtraError, match=f"this system has 32 bits, .* .found {found}"):
        require_64_bit(machine, bits)
    require_64_bit("aarch64", 64)
    require_64_bit("x86_64", 64)


def test_the_command_refuses_32_bits(cli, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(doctor.struct, "calcsize", lambda _: 4)
    code, out, err = cli("doctor")
    assert (code, out) == (6, "")
    one_sentence(err, "this system has 32 bits")


def test_the_command_fits_a_terminal_and_ends_with_what_it_found(cli, board, tmp_path, monkeypatch):
    python = program(tmp_path / "bin" / "python-with-engine", "exit 1")
    monkeypatch.setattr("embernet.device.doctor.run_checks", lambda: run_checks(board, python, tmp_path))
    code, out, _ = cli("doctor")
    assert code == 1
    lines = out.splitlines()
    assert lines[0] == "ok       board       Raspberry Pi Zero 2 W Rev 1.0 (profile pi-zero-2-w)"
    assert max(len(line) for line in lines if "try: " not in line) <= 80
    assert "problem  engine      ONNX Runtime cannot be imported (no reason given)" in lines
    assert lines[-1].endswith("problems 1")
    program(tmp_path / "bin" / "python-with-engine", "echo 2.4.6 1.31.1")
    code, out, _ = cli("doctor", "--json")
    values = json.loads(out)
    assert (code, values["ok"], values["problems"]) == (0, True, 0)
    assert next(iter(values)) == "schema"
    assert values["schema"] == "embernet.doctor/1"
    assert [check["name"] for check in values["checks"]][:5] == ["board", "system", "python", "engine", "kernels"]
    assert values["checks"][5]["values"]["available_bytes"] == 300000 << 10


def test_looking_imports_neither_the_engine_nor_numpy():
    code = (
        "import sys; from embernet.device.doctor import run_checks; run_checks(); "
        "assert not {'numpy', 'onnxruntime', 'PIL'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
