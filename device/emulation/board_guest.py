"""What runs inside the emulated board, as a service of systemd: the steps of a job, each watched from outside.

It needs Python and nothing else: whatever a step needs, the step before it has installed.
"""

import json
import os
import platform
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from embernet.device.emulation.report import STAGE, report, say
from embernet.device.watch_memory import watch
from embernet.runtime.available_memory import meminfo

INSTALLED = "/root/ember"  # the virtual environment that a user would make
ENVIRONMENT = {"PATH": f"{INSTALLED}/bin:/usr/sbin:/usr/bin:/sbin:/bin", "HOME": "/root", "LANG": "C.UTF-8"}
# The kernel's words when it ends a program for want of memory.
KILLED = ("Out of memory", "oom-kill", "Killed process")


def run_step(name: str, command: list[str]) -> dict[str, Any]:
    """A command, its memory, what it said on stdout, and how many programs were killed meanwhile to free memory."""
    lines: list[str] = []

    def read(line: str) -> str | None:
        if line.startswith(STAGE):
            return line.removeprefix(STAGE)
        lines.append(line)
        return None

    say(f"{name}: {' '.join(command)}")
    kills = oom_kills()
    with tempfile.TemporaryFile("w+", errors="replace") as errors:  # not the console: results are read from that
        watched = watch(command, read, environment=ENVIRONMENT, errors=errors)
        errors.seek(0)
        for line in errors:
            say(line.rstrip())
    return {"name": name, "oom_kills": oom_kills() - kills, "output": lines, **watched.to_dict()}


def oom_kills() -> int:
    """How many programs the kernel has ended for want of memory since it started."""
    counters = dict(line.split() for line in Path("/proc/vmstat").read_text().splitlines())
    return int(counters["oom_kill"])


def describe_system() -> dict[str, Any]:
    """The machine before the first step."""
    memory = meminfo()
    return {
        "cores": os.cpu_count(),
        "memory_total_bytes": memory["MemTotal"],
        "memory_available_bytes": memory["MemAvailable"],
        "swap_bytes": memory["SwapTotal"],
        "first_process": Path("/proc/1/comm").read_text().strip(),
        "system": platform.freedesktop_os_release()["PRETTY_NAME"],
        "kernel": platform.release(),
        "python": platform.python_version(),
    }


def main() -> None:
    """Report on the system, run the steps of a job's folder where its files are, report on each and on the kernel."""
    job = Path(sys.argv[1])
    os.chdir(job / "work")
    report(describe_system())
    for step in json.loads((job / "job.json").read_text()):
        report(run_step(**step))
    messages = subprocess.run(["busybox", "dmesg"], capture_output=True, text=True, check=True).stdout  # noqa: S607
    report([line for line in messages.splitlines() if any(word in line for word in KILLED)])


if __name__ == "__main__":
    main()
