"""What this machine has of what embernet needs, one line each, and how to get what is missing."""

import importlib.metadata
import os
import platform
import re
import shutil
import struct
import subprocess
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Any

from embernet.device.boards import STILL_PROGRAMS, detect_board
from embernet.device.cpu import cpu_name, is_emulated, system_text
from embernet.device.health import Health, read_health
from embernet.errors import InputError, MissingExtraError, system_reason
from embernet.runtime.available_memory import available_bytes, meminfo
from embernet.runtime.bundle import model_folder
from embernet.runtime.native_library import FUNCTION_BODIES, find_library, isa_in_use

SCHEMA = "embernet.doctor/1"
OK, WARNING, PROBLEM = "ok", "warning", "problem"

_ROOT = Path("/")
_MB = 10**6
_OLDEST_ENGINE = (1, 22, 1)  # 1.21 dies on a Cortex-A53 and a Cortex-A72
_ENGINE = "import numpy, onnxruntime; print(numpy.__version__, onnxruntime.__version__)"
_ENGINE_TIMEOUT_S = 120.0
# Python, the engine and the built-in model take 40 MB that cannot be dropped.
_LEAST_BYTES, _SCARCE_BYTES = 40 * _MB, 120 * _MB
_SMALL_BOARD_BYTES = 1000 * _MB
_LEAST_DISK_BYTES, _SCARCE_DISK_BYTES = 20 * _MB, 400 * _MB
_HOT_C = 75.0  # a Raspberry Pi slows down from 80
_REQUIREMENT = re.compile(r"^([\w.-]+)(?:\[(\w+)\])?.*extra\s*==\s*['\"](\w+)['\"]")


@dataclass(frozen=True)
class Check:
    """status: OK, WARNING (works, but) or PROBLEM (does not work). hint: what to type or do; values: for programs."""

    name: str
    status: str
    found: str
    hint: str | None = None
    values: Mapping[str, Any] = field(default_factory=lambda: MappingProxyType({}))


def require_64_bit(machine: str | None = None, bits: int | None = None) -> None:
    """MissingExtraError where nothing can work: ONNX Runtime has no package for 32 bits. bits: of a pointer."""
    machine, bits = machine or platform.machine(), bits or 8 * struct.calcsize("P")
    if bits == 64:
        return
    kernel = "a 64-bit kernel" if machine in ("aarch64", "arm64", "x86_64") else f"a kernel for {machine}"
    raise MissingExtraError(
        f"this system has 32 bits, and ONNX Runtime needs 64 (found {kernel} with a {bits}-bit Python)",
        hint="install the 64-bit Raspberry Pi OS",
    )


def run_checks(root: Path = _ROOT, python: str = sys.executable, folder: Path | None = None) -> list[Check]:
    """Look at everything. root: where /proc, /sys, /dev and /etc are; folder: of named bundles."""
    health = read_health(root)
    is_board = detect_board(root) is not None
    return [
        _board(root),
        _system(root),
        _python(),
        _engine(python),
        _kernels(),
        _memory(root),
        _swap(root, health),
        _heat(health),
        _throttling(health, is_board),
        _governor(health),
        _camera(root, is_board),
        _disk(folder or model_folder()),
        _extras(),
    ]


def _board(root: Path) -> Check:
    known, name = detect_board(root), cpu_name(root)
    title = system_text(root / "proc/device-tree/model") or name or "not known"
    profile = None if known is None else known.name
    values = {"title": title, "cpu": name, "profile": profile, "emulated": is_emulated(root)}
    if values["emulated"]:
        return Check("board", WARNING, f"{title}, emulated: its times say nothing about a real one", values=values)
    return Check("board", OK, title if profile is None else f"{title} (profile {profile})", values=values)


def _system(root: Path) -> Check:
    release = dict(
        line.split("=", 1) for line in (system_text(root / "etc/os-release") or "").splitlines() if "=" in line
    )
    name = release.get("PRETTY_NAME", platform.system()).strip('"')
    kernel = system_text(root / "proc/sys/kernel/osrelease") or platform.release()
    machine = platform.machine()
    values = {"os": name, "kernel": kernel, "architecture": machine}
    return Check("system", OK, f"{name}, kernel {kernel}, {machine}", values=values)


def _python() -> Check:
    version = platform.python_version()
    return Check("python", OK, f"{version} ({sys.executable})", values={"version": version})


def _engine(python: str) -> Check:
    """Imported by a process of its own: an engine for another CPU dies of it."""
    try:
        done = subprocess.run(  # noqa: S603
            [python, "-c", _ENGINE],
            capture_output=True,
            text=True,
            timeout=_ENGINE_TIMEOUT_S,
            check=False,
            env={**os.environ, "PYTHONSAFEPATH": "1"},  # nothing is imported from the folder this is started in
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        return Check("engine", PROBLEM, f"ONNX Runtime cannot be imported ({error})")
    reinstall = "pip install --upgrade 'onnxruntime>=1.22.1' numpy"
    versions = done.stdout.split()
    if done.returncode != 0 or len(versions) != 2:
        how = (done.stderr.strip().splitlines() or ["no reason given"])[-1]
        if done.returncode < 0:
            how = f"killed by signal {-done.returncode}"
        return Check("engine", PROBLEM, f"ONNX Runtime cannot be imported ({how})", reinstall)
    numpy, onnxruntime = versions
    values = {"onnxruntime": onnxruntime, "numpy": numpy}
    found = f"onnxruntime {onnxruntime}, numpy {numpy}"
    if tuple(int(part) for part in re.findall(r"\d+", onnxruntime)[:3]) < _OLDEST_ENGINE:
        return Check("engine", PROBLEM, f"{found}: older than 1.22.1", reinstall, values)
    return Check("engine", OK, found, values=values)


def _kernels() -> Check:
    library = find_library()
    values: dict[str, Any] = {"library": None if library is None else str(library), "isa": None}
    if library is None:
        found = "no native operators: answers are right, but slow"
        return Check("kernels", WARNING, found, "sudo apt install g++, then install embernet again", values)
    try:
        values["isa"] = isa = isa_in_use()
    except InputError as error:
        return Check("kernels", PROBLEM, str(error), "unset EMBERNET_ISA", values)
    if isa in (FUNCTION_BODIES, "portable"):
        forced = "EMBERNET_ISA" in os.environ
        return Check("kernels", WARNING, f"{isa}: slow", "unset EMBERNET_ISA" if forced else None, values)
    return Check("kernels", OK, isa, values=values)


def _memory(root: Path) -> Check:
    total, available = meminfo(root).get("MemTotal"), available_bytes(root)
    values = {"total_bytes": total, "available_bytes": available}
    if total is None or available is None:
        return Check("memory", WARNING, "not known here: nothing is refused for want of it", values=values)
    found = f"{available / _MB:,.0f} of {total / _MB:,.0f} MB available"
    hint = "end other programs; without a desktop: sudo systemctl set-default multi-user.target"
    if available < _LEAST_BYTES:
        return Check("memory", PROBLEM, f"{found}: not enough for any model", hint, values)
    if available < _SCARCE_BYTES:
        return Check("memory", WARNING, f"{found}: enough for small models only", hint, values)
    return Check("memory", OK, found, values=values)


def _swap(root: Path, health: Health) -> Check:
    values = {"swap_bytes": health.swap_bytes, "used_bytes": health.swap_used_bytes, "zram_bytes": health.zram_bytes}
    total = meminfo(root).get("MemTotal")
    if health.swap_bytes is None:
        return Check("swap", OK, "not known here", values=values)
    if health.swap_bytes == 0:
        if total is not None and total < _SMALL_BOARD_BYTES:
            found = "none: where memory is short, Linux kills a program"
            return Check("swap", WARNING, found, "sudo apt install zram-tools", values)
        return Check("swap", OK, "none", values=values)
    found = f"{health.swap_bytes / _MB:,.0f} MB, {health.zram_bytes / _MB:,.0f} of them in compressed memory"
    return Check("swap", OK, f"{found}, {(health.swap_used_bytes or 0) / _MB:,.0f} MB used", values=values)


def _heat(health: Health) -> Check:
    values = {"temperature_c": health.temperature_c}
    if health.temperature_c is None:
        return Check("temperature", OK, "not known here", values=values)
    found = f"{health.temperature_c:.1f} °C"
    if health.temperature_c >= _HOT_C:
        return Check("temperature", WARNING, f"{found}: slows down from 80", "a heat sink, or more air", values)
    return Check("temperature", OK, found, values=values)


def _throttling(health: Health, is_board: bool) -> Check:
    state = health.throttling
    values = {"now": state and list(state.now), "occurred": state and list(state.occurred)}
    if state is None:
        if is_board:
            hint = "sudo apt install raspi-utils; sudo usermod -aG video $USER"
            return Check("throttling", WARNING, "not known: vcgencmd is missing or may not be used", hint, values)
        return Check("throttling", OK, "not known here", values=values)
    power = "a power supply of 5 V and 2.5 A" if "under-voltage" in (*state.now, *state.occurred) else None
    if state.now:
        return Check("throttling", WARNING, f"now: {', '.join(state.now)}", power or "a heat sink, or more air", values)
    if state.occurred:
        return Check("throttling", WARNING, f"since it was started: {', '.join(state.occurred)}", power, values)
    return Check("throttling", OK, "none since it was started", values=values)


def _governor(health: Health) -> Check:
    values = {"governor": health.governor, "frequency_mhz": health.frequency_mhz}
    clock = "" if health.frequency_mhz is None else f", {health.frequency_mhz:.0f} MHz now"
    if health.governor == "powersave":
        hint = "echo ondemand | sudo tee /sys/devices/system/cpu/cpu*/cpufreq/scaling_governor"
        return Check("governor", WARNING, f"powersave{clock}: the slowest clock", hint, values)
    return Check("governor", OK, f"{health.governor or 'not known here'}{clock}", values=values)


def _camera(root: Path, is_board: bool) -> Check:
    program = next((name for name in STILL_PROGRAMS if shutil.which(name)), None)
    videos = sorted(f"/dev/{path.name}" for path in root.glob("dev/video*"))
    values = {"program": program, "devices": videos}
    found = f"{program or 'no rpicam-still'}, {', '.join(videos) or 'no /dev/video*'}"
    if program is None and is_board:
        return Check("camera", WARNING, found, "sudo apt install rpicam-apps-lite", values)
    return Check("camera", OK, found, values=values)


def _disk(folder: Path) -> Check:
    values: dict[str, Any] = {"path": str(folder), "free_bytes": None}
    try:
        place = next((path for path in (folder, *folder.absolute().parents) if path.is_dir()), Path("/"))
        values["free_bytes"] = free = shutil.disk_usage(place).free
    except OSError as error:
        return Check(
            "disk", PROBLEM, f"{folder}: {system_reason(error)}", "set EMBERNET_HOME to a folder of your own", values
        )
    found = f"{free / _MB:,.0f} MB free for {folder}"
    if free < _LEAST_DISK_BYTES:
        return Check("disk", PROBLEM, found, "remove files; df -h shows where", values)
    if free < _SCARCE_DISK_BYTES:
        return Check("disk", WARNING, f"{found}: too little for a large bundle", values=values)
    return Check("disk", OK, found, values=values)


def _extras() -> Check:
    try:
        lines = importlib.metadata.requires("embernet") or []
    except importlib.metadata.PackageNotFoundError:
        return Check("extras", WARNING, "not known: embernet runs from a folder, not installed", "pip install embernet")
    missing = {extra: list(_missing(extra, lines)) for extra in _extra_names(lines)}
    whole = [extra for extra, names in missing.items() if not names]
    values = {"installed": whole, "missing": {extra: names for extra, names in missing.items() if names}}
    absent = ", ".join(extra for extra, names in missing.items() if names)
    found = f"{', '.join(whole) or 'none'}; not {absent}" if absent else ", ".join(whole)
    return Check("extras", OK, f"{found} (pip install 'embernet[NAME]')" if absent else found, values=values)


def _extra_names(lines: list[str]) -> list[str]:
    return sorted({match[3] for line in lines if (match := _REQUIREMENT.match(line))})


def _missing(extra: str, lines: list[str]) -> Iterator[str]:
    """Packages of an extra, and of the extras it includes, that are not installed."""
    for line in lines:
        match = _REQUIREMENT.match(line)
        if not match or match[3] != extra or "python_version" in line:
            continue
        if match[1] == "embernet" and match[2]:
            yield from _missing(match[2], lines)
            continue
        try:
            importlib.metadata.version(match[1])
        except importlib.metadata.PackageNotFoundError:
            yield match[1]
