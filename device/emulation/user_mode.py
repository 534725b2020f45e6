"""Programs for arm64 without a machine: QEMU's user mode runs them, as a Cortex-A53, on this kernel.

Quick, and needs root only to be made. It shows that no instruction is illegal and that answers are right; what the
kernel tells a program about memory and processors is this machine's.
"""

import shutil
from collections.abc import Sequence
from pathlib import Path

from embernet.device.emulation import debian

EMULATOR = "qemu-aarch64-static"
PACKAGES = ("libstdc++6", "python3")
SITE = "site"
# ONNX Runtime crashes when the processors in /proc and /sys are of another kind. QEMU prefers files of the root.
FILES = {
    "proc/cpuinfo": "processor\t: 0\nFeatures\t: fp asimd evtstrm crc32 cpuid\nCPU implementer\t: 0x41\n"
    "CPU architecture: 8\nCPU variant\t: 0x0\nCPU part\t: 0xd03\nCPU revision\t: 4\n",
    "sys/devices/system/cpu/possible": "0\n",
    "sys/devices/system/cpu/present": "0\n",
}


def make(folder: Path) -> None:
    """Unpack a Python and the packages that embernet needs; nothing to do if they are there as wanted."""
    made, wanted = folder / "made-from", "\n".join([debian.SUITE, *PACKAGES, *debian.REQUIREMENTS])
    if made.is_file() and made.read_text() == wanted:
        return
    debian.require_host(debian.PROGRAMS)
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    debian.unpack(folder / "root", PACKAGES)
    debian.install(folder / SITE)
    for name, text in FILES.items():
        path = folder / "root" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    made.write_text(wanted)


def python(folder: Path, package: Path, arguments: Sequence[str]) -> list[str]:
    """The command that runs Python. folder: what `make` made; package: a folder that has the package `embernet`."""
    root = folder / "root"
    variables = {
        "PYTHONPATH": f"{package}:{folder / SITE}",
        "PYTHONSAFEPATH": "1",  # not what lies where it is started
        "PYTHONDONTWRITEBYTECODE": "1",
    }
    options = [part for name, value in variables.items() for part in ("-E", f"{name}={value}")]
    program = str(root / "usr" / "bin" / f"python{debian.PYTHON}")
    return [EMULATOR, "-cpu", debian.CPU, "-L", str(root), *options, program, *arguments]
