"""The emulated machine: its disk images, made once, and a run of it.

Needs root, because the files of a Linux system belong to root, and the Debian packages in `PROGRAMS`. The system has
only what is unpacked from Debian's packages: nothing of it runs before it boots, so no emulator for programs is needed.
"""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from embernet.device.emulation import guest
from embernet.errors import EmbernetError, MissingExtraError

ROOT = Path(__file__).parents[2]
CPU, COMPILER = "cortex-a53", "aarch64-linux-gnu-g++"
PROGRAMS = {
    "qemu-system-aarch64": "qemu-system-arm",
    "mmdebstrap": "mmdebstrap",
    "mke2fs": "e2fsprogs",
    COMPILER: "g++-aarch64-linux-gnu",
    "cmake": "cmake",
}
SUITE, PYTHON = "bookworm", "3.11"
PACKAGES = ("busybox-static", "libstdc++6", "linux-image-arm64", "python3")
# Versions decide how many instructions a run has, so they are fixed.
REQUIREMENTS = ("numpy==2.4.6", "onnxruntime==1.31.1", "pillow==13.0.0", "tokenizers==0.23.3", "typer==0.29.2")
PLATFORMS = [f"manylinux_2_{minor}_aarch64" for minor in (28, 27, 17)]
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
SITE, JOB = "/opt/site", "/opt/job"
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
export HOME=/root PYTHONPATH={JOB}:{SITE}
exec /bin/busybox switch_root /system $realinit
"""


def require_host() -> None:
    """EmbernetError unless this is root, MissingExtraError that names every Debian package whose program is missing."""
    missing = [package for program, package in PROGRAMS.items() if shutil.which(program) is None]
    if missing:
        raise MissingExtraError(
            f"the emulation needs programs that are not installed ({', '.join(missing)})",
            hint=f"apt-get install --no-install-recommends {' '.join(missing)}",
        )
    if os.geteuid() != 0:
        raise EmbernetError("the emulation needs root: the files of its system belong to root")


def run(job: Sequence[Mapping[str, Any]], files: Mapping[str, Path], folder: Path, megabytes: int) -> list[Any]:
    """Run the steps of a job (guest.py) in the machine and return one result per step.

    files: what lies in the job's folder, by name; folder: where images are kept; megabytes: memory of the machine.
    """
    require_host()
    system, job_disk = folder / "system", folder / "job.img"
    _make_system(system)
    _make_job(folder / "job", job_disk, job, files)
    initrd = folder / "initrd"
    initrd.write_bytes(_initial_ram_disk(system / "root"))
    (kernel,) = (system / "root" / "boot").glob("vmlinuz-*")
    command: list[str | Path] = [
        *("qemu-system-aarch64", "-M", "virt", "-cpu", CPU, "-smp", "1", "-m", str(megabytes)),
        *("-icount", "shift=0,sleep=off"),
        *("-nic", "none", "-display", "none", "-monitor", "none", "-serial", "stdio", "-no-reboot"),
        *("-kernel", kernel, "-initrd", initrd),
        *("-drive", f"file={system / 'disk.img'},format=raw,if=virtio,snapshot=on"),
        *("-drive", f"file={job_disk},format=raw,if=virtio,snapshot=on"),
        "-append",
        f'console=ttyAMA0 quiet panic=-1 realinit="/usr/bin/python3 -m {guest.__name__} {JOB}"',
    ]
    with subprocess.Popen(  # noqa: S603
        command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, text=True, errors="replace"
    ) as process:
        try:
            return read_results(process.stdout or (), len(job))
        finally:  # the machine does not outlive whoever reads from it
            process.kill()


def read_results(console: Iterable[str], expected: int) -> list[Any]:
    """The results that the guest reported. What it says is shown on stderr, its last words in the error if it died."""
    results, said = [], ["nothing"]
    for line in map(str.strip, console):
        if line:
            said.append(line)
            sys.stderr.write(f"  {line}\n")
        if line.startswith(guest.RESULT):
            results.append(json.loads(line.removeprefix(guest.RESULT)))
    if len(results) != expected:
        raise EmbernetError(
            f"the emulated machine finished {len(results)} of {expected} steps (its last words: {said[-1]})"
        )
    return results


def _make_system(folder: Path) -> None:
    """A disk image of Debian's files and Python packages, unless it is there as wanted."""
    wanted, made = "\n".join([SUITE, *PACKAGES, *REQUIREMENTS]), folder / "made-from"
    if made.is_file() and made.read_text() == wanted:
        return
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    root = folder / "root"
    options = ["--mode=root", "--variant=extract", "--architectures=arm64", f"--include={','.join(PACKAGES)}"]
    call("mmdebstrap", "--quiet", *options, '--aptopt=APT::Install-Recommends "false"', SUITE, root, *_mirrors())
    for name in ("proc", "sys", "root", "tmp", JOB, SITE):
        (root / name.lstrip("/")).mkdir(parents=True, exist_ok=True)
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "install", "-q", "--no-compile"]
    platforms = [f"--platform={name}" for name in PLATFORMS]
    python = ["--only-binary=:all:", "--implementation", "cp", "--python-version", PYTHON]
    call(*pip, *python, *platforms, "--target", root / SITE.lstrip("/"), *REQUIREMENTS)
    _make_disk(root, folder / "disk.img")
    made.write_text(wanted)


def _initial_ram_disk(root: Path) -> bytes:
    """What the kernel needs to find the disks: a shell and the modules of their drivers."""
    (modules,) = (root / "lib" / "modules").iterdir()
    files = {"init": INIT.encode(), "bin/busybox": (root / "bin" / "busybox").read_bytes()}
    for name in MODULES:
        files[f"{Path(name).name}.ko"] = (modules / "kernel" / f"{name}.ko").read_bytes()
    return cpio({"bin": None, **files})


def _mirrors() -> list[str]:
    """Where this machine itself gets Debian from; nothing (mmdebstrap's own choice) if it is no Debian."""
    command = ["apt-get", "indextargets", "--format", "$(REPO_URI)", "Label: Debian", "Identifier: Packages"]
    return sorted(set(call(*command).split()))[:1]


def _make_job(folder: Path, disk: Path, job: Sequence[Mapping[str, Any]], files: Mapping[str, Path]) -> None:
    """A disk with the steps, the files they name, and this tree's package with its native operators."""
    shutil.rmtree(folder, ignore_errors=True)
    package = folder / "embernet"
    hidden = shutil.ignore_patterns("__pycache__", "native", "*.so")
    for source, target in (("embernet", "."), ("runtime", "runtime"), ("device", "device")):
        shutil.copytree(ROOT / source, package / target, ignore=hidden, dirs_exist_ok=True)
    shutil.copy(_native_library(folder.parent / "native"), package / "runtime")
    for name, path in files.items():
        if path.is_dir():
            shutil.copytree(path, folder / name)
        else:
            shutil.copy(path, folder / name)
    (folder / "job.json").write_text(json.dumps(job))
    _make_disk(folder, disk)
    shutil.rmtree(folder)


def _native_library(build: Path) -> Path:
    """libembernet_ops.so for arm64, built from this tree."""
    target = ["-DCMAKE_SYSTEM_NAME=Linux", "-DCMAKE_SYSTEM_PROCESSOR=aarch64"]
    call("cmake", "-S", ROOT, "-B", build, *target, f"-DCMAKE_CXX_COMPILER={COMPILER}")
    call("cmake", "--build", build, "--target", "embernet_ops")
    return build / "libembernet_ops.so"


def _make_disk(folder: Path, disk: Path) -> None:
    """An ext4 image of a folder's files, a sixth larger than they are."""
    size = sum(path.lstat().st_size for path in folder.rglob("*"))
    disk.unlink(missing_ok=True)
    kilobytes = (size // 1024) * 7 // 6 + 64 * 1024
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


def call(*command: str | Path) -> str:
    """Run a program in the checkout, and return what it said; EmbernetError with the end of what went wrong."""
    result = subprocess.run(  # noqa: S603 - the commands are this module's own
        command, check=False, cwd=ROOT, capture_output=True, text=True
    )
    if result.returncode:
        said = (result.stderr or result.stdout).strip().splitlines()[-3:]
        raise EmbernetError(f"{command[0]} failed ({' / '.join(said)})")
    return result.stdout
