"""What all comparisons share: taking turns, describing the machine, keeping results."""

import argparse
import datetime as dt
import importlib.metadata
import json
import os
import platform
import shutil
import statistics
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from embernet.checkpoints import write_text
from embernet.device.cpu import cpu_name, cpuinfo, system_text

ROOT = Path(__file__).resolve().parent.parent
RESULTS = ROOT / "benchmarks" / "results"
BUILD = ROOT / "build" / "benchmarks"
SCHEMA = "embernet.comparison/1"

_PACKAGES = ("embernet", "onnxruntime", "numpy", "llama-cpp-python")
# Of the flags of /proc/cpuinfo, those that kernels are written for.
_FLAGS = ("sse4", "avx", "fma", "f16c", "asimd", "sve", "i8mm", "amx", "neon")


def turns(contestants: Sequence[str], rounds: int) -> Iterator[tuple[int, str]]:
    """(round, contestant): all of them once a round, every round beginning with the next one."""
    for number in range(rounds):
        first = number % len(contestants)
        for name in (*contestants[first:], *contestants[:first]):
            yield number, name


def ratio_of_medians(ours: Sequence[float], theirs: Sequence[float]) -> float:
    """How many times theirs ours is; both are speeds."""
    return statistics.median(ours) / statistics.median(theirs)


def program_parser(description: str | None, rounds: int) -> argparse.ArgumentParser:
    """A parser with what every comparison accepts; its help is the module's docstring."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=rounds, help="how often each contestant has its turn")
    parser.add_argument("-o", "--output", type=Path, default=RESULTS, help="folder of the results")
    return parser


def say(text: str) -> None:
    sys.stderr.write(f"{text}\n")


class Record:
    """Results of one comparison; made when it begins, for the machine's load at both ends."""

    def __init__(self, name: str) -> None:
        self.name = name
        self._load = os.getloadavg()
        self._date = dt.datetime.now(dt.timezone.utc).isoformat(timespec="seconds")

    def save(self, folder: Path, **values: Any) -> None:
        """Write folder/NAME.json, whole or not at all."""
        result = {
            "schema": SCHEMA,
            "name": self.name,
            "date": self._date,
            # Where files lie on this machine is of no interest.
            "command": " ".join(["python", "-m", f"benchmarks.{self.name}", *(Path(a).name for a in sys.argv[1:])]),
            "machine": machine(),
            "load_average": {"start": self._load[0], "end": os.getloadavg()[0]},
            **values,
        }
        folder.mkdir(parents=True, exist_ok=True)
        path = folder / f"{self.name}.json"
        write_text(path, json.dumps(result, indent=1, allow_nan=False) + "\n")
        say(f"wrote {path}")


def machine() -> dict[str, Any]:
    """This machine and what runs on it. Sizes in bytes."""
    cpu = cpuinfo()
    flags = cpu.get("flags", cpu.get("Features", "")).split()
    return {
        "cpu": cpu_name() or platform.machine(),
        "cpu_family_model_stepping": [cpu.get(key) for key in ("cpu family", "model", "stepping")],
        "architecture": platform.machine(),
        "instruction_sets": sorted(f for f in flags if f.startswith(_FLAGS)),
        "cores": os.cpu_count(),
        "hypervisor": "hypervisor" in flags,
        "caches": _caches(),
        "memory_bytes": os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"),
        "governor": system_text(Path("/sys/devices/system/cpu/cpu0/cpufreq/scaling_governor")),
        "kernel": platform.release(),
        "compiler": _first_line(os.environ.get("CXX", "c++"), "--version"),
        "python": platform.python_version(),
        "packages": {name: version for name in _PACKAGES if (version := _version(name))},
        "commit": _first_line("git", "-C", str(ROOT), "rev-parse", "--short", "HEAD"),
    }


def _caches() -> dict[str, str]:
    """Caches of the first core: L1d, L2, L3 -> size as the system writes it."""
    found = {}
    for index in sorted(Path("/sys/devices/system/cpu/cpu0/cache").glob("index*")):
        level, kind = system_text(index / "level"), system_text(index / "type")
        if kind != "Instruction":
            found[f"L{level}{'d' if kind == 'Data' else ''}"] = system_text(index / "size") or "unknown"
    return found


def _first_line(*command: str) -> str | None:
    if shutil.which(command[0]) is None:
        return None
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    return next(iter(result.stdout.splitlines()), None)


def _version(package: str) -> str | None:
    if package == "embernet":
        from embernet import __version__

        return __version__
    if package == "llama-cpp-python":
        from benchmarks.build_llama_cpp import VERSION

        return VERSION
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None
