"""The emulated machine: its disk images, made once, and a run of it, to count instructions or as a board.

Needs root, because the files of a Linux system belong to root, and the Debian packages in `PROGRAMS`.
"""

import json
import shutil
import subprocess
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from embernet.device.emulation import debian
from embernet.device.emulation.debian import CPU, ROOT, call
from embernet.device.emulation.report import RESULT
from embernet.errors import EmbernetError

COMPILER = "aarch64-linux-gnu-g++"
PROGRAMS = {
    "qemu-system-aarch64": "qemu-system-arm",
    **debian.PROGRAMS,
    "depmod": "kmod",
    "mke2fs": "e2fsprogs",
    COMPILER: "g++-aarch64-linux-gnu",
    "cmake": "cmake",
}
PACKAGES = (
    *("base-files", "busybox-static", "kmod", "libstdc++6", "linux-image-arm64"),
    *("python3", "python3-venv", "systemd", "udev"),
)
MODULES = (  # in the order of their needs
    "drivers/virtio/virtio_pci_modern_dev",
    "drivers/virtio/virtio_pci_legacy_dev",
    "drivers/virtio/virtio_pci",
    "drivers/block/virtio_blk",
    "lib/crc16",
    "crypto/crc32c_generic",
    "fs/mbcache",
    "fs/jbd2/jbd2",
    "fs/ext4/ext4",
)
JOB = "/opt/job"
SITE = f"/usr/local/lib/python{debian.PYTHON}/dist-packages"  # where the system's Python looks by itself
FREE_MB = 512  # of the system's disk
GUEST = "embernet.device.emulation"
INIT = f"""#!/bin/busybox sh
set -e
/bin/busybox mkdir -p /dev /system
for module in {" ".join(Path(name).name for name in MODULES)}; do /bin/busybox insmod /$module.ko; done
/bin/busybox mount -t devtmpfs dev /dev
/bin/busybox mount -t ext4 /dev/vda /system
/bin/busybox mount -t ext4 /dev/vdb /system{JOB}
/bin/busybox mount -t proc proc /system/proc
/bin/busybox mount -t sysfs sys /system/sys
/bin/busybox mount -o move /dev /system/dev
export HOME=/root PYTHONPATH={JOB}
exec /bin/busybox switch_root /system $realinit
"""
# Written into the system, started by `systemd.wants=`. A command that is killed for want of memory ends alone.
SERVICE = f"""[Unit]
Description=the steps of a job
After=multi-user.target
SuccessAction=poweroff
FailureAction=poweroff

[Service]
Type=oneshot
ExecStart=/usr/bin/python3 -m {GUEST}.board_guest {JOB}
Environment=PYTHONPATH={JOB} HOME=/root
StandardOutput=tty
StandardError=tty
TTYPath=/dev/console
OOMPolicy=continue
"""


@dataclass(frozen=True)
class Setup:
    """How the machine is. command_line: the kernel's, where `realinit` is its first program.

    skips: the clock jumps to the next alarm when there is nothing to do, else it waits with the world. While a
    program runs, it counts instructions: of one core, exactly; of several, so that a host that is busy with other
    things does not drown the machine in the interrupts of its own timer.
    """

    megabytes: int
    command_line: str
    cores: int = 1
    skips: bool = False


def require_host() -> None:
    """EmbernetError unless this is root, MissingExtraError that names every Debian package whose program is missing."""
    debian.require_host(PROGRAMS)


def run(job: Sequence[Mapping[str, Any]], files: Mapping[str, Path], folder: Path, megabytes: int) -> list[Any]:
    """Run the steps of a job (guest.py) by a counting machine's first process, and return one result per step.

    files: what lies in the job's folder, by name; folder: where images are kept; megabytes: memory of the machine.
    """
    require_host()
    system = make_system(folder)
    library = {"embernet/runtime/libembernet_ops.so": _native_library(folder / "native")}
    disk = make_job(folder, job, {**files, **library})
    command_line = f'realinit="/usr/bin/python3 -m {GUEST}.guest {JOB}"'
    return boot(folder, [system, disk], Setup(megabytes, command_line, skips=True), len(job))


def boot(folder: Path, disks: Sequence[Path], setup: Setup, expected: int) -> list[Any]:
    """Start a machine with these disks (its system, its job), and return the results that it reports until it is off.

    folder: where make_system() made the system; EmbernetError unless there are as many results as expected.
    """
    root, initrd = folder / "system" / "root", folder / "initrd"
    initrd.write_bytes(_initial_ram_disk(root))
    (kernel,) = (root / "boot").glob("vmlinuz-*")
    command: list[str | Path] = [
        *("qemu-system-aarch64", "-M", "virt", "-cpu", CPU, "-smp", str(setup.cores), "-m", str(setup.megabytes)),
        *("-icount", f"shift=0,sleep={'off' if setup.skips else 'on'}"),
        *("-nic", "none", "-display", "none", "-monitor", "none", "-serial", "stdio", "-no-reboot"),
        *("-kernel", kernel, "-initrd", initrd),
        *(part for disk in disks for part in ("-drive", f"file={disk},format=raw,if=virtio,snapshot=on")),
        *("-append", f"console=ttyAMA0 quiet panic=-1 {setup.command_line}"),
    ]
    with subprocess.Popen(  # noqa: S603
        command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, text=True, errors="replace"
    ) as process:
        try:
            return read_results(process.stdout or (), expected)
        finally:  # the machine does not outlive whoever reads from it
            process.kill()


def read_results(console: Iterable[str], expected: int) -> list[Any]:
    """The results that the guest reported. What it says is shown on stderr, its last words in the error if it died."""
    results, said = [], ["nothing"]
    for line in map(str.strip, console):
        if line:
            said.append(line)
            sys.stderr.write(f"  {line}\n")
        if line.startswith(RESULT):
            results.append(json.loads(line.removeprefix(RESULT)))
    if len(results) != expected:
        raise EmbernetError(
            f"the emulated machine finished {len(results)} of {expected} steps (its last words: {said[-1]})"
        )
    return results


def make_system(parent: Path) -> Path:
    """A disk image of Debian's files and Python packages; made anew unless it is there as wanted."""
    folder = parent / "system"
    disk, made = folder / "disk.img", folder / "made-from"
    wanted = "\n".join([debian.SUITE, *PACKAGES, *debian.REQUIREMENTS, SERVICE])
    if made.is_file() and made.read_text() == wanted:
        return disk
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    root = folder / "root"
    debian.unpack(root, PACKAGES)
    for name in ("proc", "sys", "root", "tmp", JOB):
        (root / name.lstrip("/")).mkdir(parents=True, exist_ok=True)
    (modules,) = (root / "lib" / "modules").iterdir()
    call("depmod", "-b", root, modules.name)
    (root / "etc" / "systemd" / "system" / "job.service").write_text(SERVICE)
    debian.install(root / SITE.lstrip("/"))
    _make_disk(root, disk, FREE_MB)
    made.write_text(wanted)
    return disk


def _initial_ram_disk(root: Path) -> bytes:
    """What the kernel needs to find the disks: a shell and the modules of their drivers."""
    (modules,) = (root / "lib" / "modules").iterdir()
    files = {"init": INIT.encode(), "bin/busybox": (root / "bin" / "busybox").read_bytes()}
    for name in MODULES:
        files[f"{Path(name).name}.ko"] = (modules / "kernel" / f"{name}.ko").read_bytes()
    return cpio({"bin": None, **files})


def make_job(parent: Path, job: Sequence[Mapping[str, Any]], files: Mapping[str, Path]) -> Path:
    """A disk with the steps, the files they name, and this tree's package, without native operators."""
    folder, disk = parent / "job", parent / "job.img"
    shutil.rmtree(folder, ignore_errors=True)
    debian.copy_package(folder)
    for name, path in files.items():
        (folder / name).parent.mkdir(exist_ok=True)
        if path.is_dir():
            shutil.copytree(path, folder / name)
        else:
            shutil.copy(path, folder / name)
    (folder / "job.json").write_text(json.dumps(job))
    _make_disk(folder, disk)
    shutil.rmtree(folder)
    return disk


def _native_library(build: Path) -> Path:
    """libembernet_ops.so for arm64, built from this tree."""
    target = ["-DCMAKE_SYSTEM_NAME=Linux", "-DCMAKE_SYSTEM_PROCESSOR=aarch64"]
    call("cmake", "-S", ROOT, "-B", build, *target, f"-DCMAKE_CXX_COMPILER={COMPILER}")
    call("cmake", "--build", build, "--target", "embernet_ops")
    return build / "libembernet_ops.so"


def _make_disk(folder: Path, disk: Path, free_megabytes: int = 64) -> None:
    """An ext4 image of a folder's files, a sixth larger than they are, and with so much room besides."""
    size = sum(path.lstat().st_size for path in folder.rglob("*"))
    disk.unlink(missing_ok=True)
    kilobytes = (size // 1024) * 7 // 6 + free_megabytes * 1024
    call("mke2fs", "-q", "-t", "ext4", "-O", "^metadata_csum,^has_journal", "-d", folder, disk, f"{kilobytes}k")


def cpio(files: Mapping[str, bytes | None]) -> bytes:
    """An archive in the form that Linux takes as initial RAM disk; None is a folder. All may be executed."""
    archive = bytearray()
    for number, (name, content) in enumerate({**files, "TRAILER!!!": b""}.items(), start=1):
        mode, data = (0o040755, b"") if content is None else (0o100755, content)
        path = name.encode() + b"\0"
        fields = (number, mode, 0, 0, 1, 0, len(data), 0, 0, 0, 0, len(path), 0)
        archive += b"070701" + b"".join(b"%08X" % field for field in fields) + path
        archive += bytes(-len(archive) % 4) + data
        archive += bytes(-len(archive) % 4)
    return bytes(archive)
