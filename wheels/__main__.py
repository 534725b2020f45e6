"""Builds a wheel for each machine with zig, checks all of them, and only then puts them into dist/."""

import base64
import csv
import hashlib
import importlib.metadata
import json
import os
import platform
import random
import re
import shutil
import struct
import subprocess
import sys
import time
import zipfile
from pathlib import Path, PurePosixPath

from wheels.scan import BASELINES, scan

ROOT = Path(__file__).parent.parent
BUILD = ROOT / "build" / "wheels"
LIBRARY = "embernet/runtime/libembernet_ops.so"
GLIBC = "2.28"  # that of Debian 10, of 2019

# The CPUs that each wheel's library is run on, and the kernels it must choose there. "" is this machine.
CPUS: dict[str, dict[str, str | None]] = {
    "aarch64": {"cortex-a53": "neon", "max": "neon_dot"},
    "x86_64": {"": None},
}
EMULATOR, FOREIGN_ROOT = "qemu-aarch64-static", Path("/usr/aarch64-linux-gnu")


def main() -> None:
    require_tools()
    began = time.monotonic()
    wheels = {machine: build(machine) for machine in BASELINES}
    results: dict[bytes, list[str]] = {}
    for machine, wheel in wheels.items():
        step(f"checking {wheel.name}")
        check_contents(wheel, machine)
        check_library(wheel, machine)
        for kernels, digest in run_kernels(machine).items():
            results.setdefault(digest, []).append(kernels)
    require(len(results) == 1, f"these kernels differ: {' / '.join(', '.join(names) for names in results.values())}")
    print(f"  the same bits from all kernels: {', '.join(*results.values())}")
    (ROOT / "dist").mkdir(exist_ok=True)
    for wheel in wheels.values():
        wheel.replace(ROOT / "dist" / wheel.name)
        step(f"dist/{wheel.name}")
    print(f"{time.monotonic() - began:.0f} s")


def tag(machine: str) -> str:
    return f"manylinux_{GLIBC.replace('.', '_')}_{machine}"


def target(machine: str) -> str:
    return f"{machine}-linux-gnu.{GLIBC}"


def step(text: str) -> None:
    print(f"wheels: {text}", flush=True)


def require(condition: bool, sentence: str) -> None:
    if not condition:
        raise SystemExit(f"wheels: {sentence}")


def require_tools() -> None:
    require(platform.machine() == "x86_64", "wheels are built on x86-64 Linux")
    names = [f"{baseline.tools}{tool}" for baseline in BASELINES.values() for tool in ("as", "nm", "objdump")]
    missing = [name for name in [*names, EMULATOR] if shutil.which(name) is None]
    require(
        not missing and FOREIGN_ROOT.is_dir(),
        f"checking needs {', '.join(missing) or FOREIGN_ROOT}: "
        "apt install binutils g++-aarch64-linux-gnu qemu-user-static",
    )


def zig() -> str:
    return str(Path(str(importlib.metadata.distribution("ziglang").locate_file("ziglang/zig"))))


def environment(machine: str) -> dict[str, str]:
    """Where the tools of this virtual environment come first, and zig is the compiler."""
    return os.environ | {
        "PATH": os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]]),
        "CMAKE_TOOLCHAIN_FILE": str(ROOT / "wheels" / "zig.cmake"),
        "ZIG": zig(),
        "ZIG_TARGET": target(machine),
        "ZIG_GLOBAL_CACHE_DIR": str(BUILD / "zig"),
        "ZIG_LOCAL_CACHE_DIR": str(BUILD / "zig"),
        "_PYTHON_HOST_PLATFORM": f"linux-{machine}",
    }


def build(machine: str) -> Path:
    """Build the wheel and the driver of its kernels; the wheel has its final name, but is not yet in dist/."""
    folder, variables = BUILD / machine, environment(machine)
    shutil.rmtree(folder, ignore_errors=True)
    step(f"building for {machine}")
    # Never a wheel without native operators; the linker strips, as this machine's tool cannot for others.
    options = [f"build-dir={folder}", "wheel.cmake=true", "install.strip=false"]
    settings = [f"--config-settings={option}" for option in options]
    command = [sys.executable, "-m", "pip", "wheel", "-v", "--no-deps", "--no-build-isolation", *settings]
    subprocess.run([*command, "-w", folder / "built", ROOT], check=True, env=variables)
    subprocess.run(["cmake", "--build", folder, "--target", "kernel_driver"], check=True, env=variables)
    (wheel,) = (folder / "built").glob("*.whl")
    command = [sys.executable, "-m", "wheel", "tags", "--remove", "--platform-tag", tag(machine)]
    subprocess.run([*command, wheel], check=True)
    (wheel,) = (folder / "built").glob(f"embernet-*-py3-none-{tag(machine)}.whl")
    return wheel


def check_contents(wheel: Path, machine: str) -> None:
    """That the wheel holds what it says: no more, no less, and as hashed."""
    with zipfile.ZipFile(wheel) as archive:
        contents = {name: archive.read(name) for name in archive.namelist()}
    tops = {PurePosixPath(name).parts[0].split("-")[0] for name in contents}
    require(tops == {"embernet"}, f"{wheel.name} has more than embernet at its top: {tops}")
    libraries = [name for name in contents if ".so" in PurePosixPath(name).suffixes]
    require(libraries == [LIBRARY], f"{wheel.name} has the libraries {libraries}")
    built = (BUILD / machine / "libembernet_ops.so").read_bytes()
    require(contents[LIBRARY] == built, f"{wheel.name} has another library than the one that is scanned")
    (information,) = {name.split("/")[0] for name in contents if ".dist-info/" in name}
    tags = re.findall(r"^Tag: (.*)$", contents[f"{information}/WHEEL"].decode(), re.MULTILINE)
    require(tags == [f"py3-none-{tag(machine)}"], f"{wheel.name} says its tags are {tags}")
    record = f"{information}/RECORD"
    listed = {name: digest for name, digest, _ in csv.reader(contents[record].decode().splitlines())}
    expected = {name: "" if name == record else sha256(data) for name, data in contents.items()}
    require(listed == expected, f"{wheel.name}: RECORD is not what is in it")


def sha256(data: bytes) -> str:
    return "sha256=" + base64.urlsafe_b64encode(hashlib.sha256(data).digest()).rstrip(b"=").decode()


def check_library(wheel: Path, machine: str) -> None:
    """That the library needs an old enough libc only, and every CPU that the wheel is for can run and load it."""
    folder, tools = BUILD / machine, BASELINES[machine].tools
    library = Path(zipfile.ZipFile(wheel).extract(LIBRARY, folder / "extracted"))
    header = output([f"{tools}objdump", "-p", library])
    needed = re.findall(r"^ *NEEDED +(\S+)$", header, re.MULTILINE)
    require(needed == ["libc.so.6"], f"the library for {machine} needs {', '.join(needed)}")
    audit = json.loads(output([sys.executable, "-m", "auditwheel", "show", "--json", wheel]))
    symbols = re.fullmatch(rf"manylinux_2_(\d+)_{machine}", audit["overall_tag"])
    fits = symbols is not None and int(symbols[1]) <= int(GLIBC.removeprefix("2."))
    require(fits, f"auditwheel finds {wheel.name} consistent with {audit['overall_tag']} only")
    complaints = scan(folder, machine)
    require(not complaints, "\n  ".join(["the library has instructions it must not have", *complaints]))
    loader = folder / "load"
    program: list[str | Path] = [
        zig(),
        "c++",
        "-target",
        target(machine),
        "-nostdlib++",
        "-O2",
        ROOT / "wheels" / "load.cpp",
    ]
    subprocess.run([*program, "-ldl", "-o", loader], check=True, env=environment(machine))
    for cpu, fastest in CPUS[machine].items():
        isas = output([*emulated(cpu), loader, library]).split()
        require(fastest in {None, isas[0]}, f"the library chooses {isas[0]} on {cpu}, not {fastest}")
        print(f"  loads on {cpu or 'this machine'}, with kernels for: {', '.join(isas)}")
    size, total = library.stat().st_size, wheel.stat().st_size
    print(f"  {audit['overall_tag']} by its symbols; the library has {size:,} bytes, the wheel {total:,}")


def emulated(cpu: str) -> list[str | Path]:
    return [EMULATOR, "-L", FOREIGN_ROOT, "-cpu", cpu] if cpu else []


def output(command: list[str | Path]) -> str:
    return subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout


def run_kernels(machine: str) -> dict[str, bytes]:
    """A digest of what each set of kernels makes of the same numbers."""
    results = {}
    for cpu in CPUS[machine]:
        driver = [*emulated(cpu), BUILD / machine / "kernel_driver"]
        for isa in output([*driver, "list"]).split():
            variables = os.environ | {"EMBERNET_ISA": isa}
            done = subprocess.run(driver, input=numbers(), stdout=subprocess.PIPE, check=True, env=variables)
            results[f"{machine} {isa} ({cpu or 'this machine'})"] = hashlib.sha256(done.stdout).digest()
    return results


def numbers() -> bytes:
    """Input of tests/native/kernel_driver.cpp: every operation, in several sizes."""
    rng = random.Random(0)
    parts = []
    for operation, inputs in ((1, 16), (2, 4)):
        for groups, count in ((1, 1), (47, 3), (128, 9)):
            stride = -(-groups * inputs // 64) * 64
            used = groups * inputs  # the codes of a row; what pads them is 0
            rows = [[rng.randint(-127, 127) for _ in range(used)] + [0] * (stride - used) for _ in range(count)]
            codes, sums = [code for row in rows for code in row], [sum(row) for row in rows]
            tile = rng.randbytes(groups * 64)
            if operation == 1:  # two bits per weight: 0, 1 or 2
                tile = bytes(sum(rng.randint(0, 2) << shift for shift in (0, 2, 4, 6)) for _ in tile)
            outliers = () if operation == 1 else (1,)
            sizes = (operation, *outliers, groups, count, stride)
            parts += [struct.pack(f"<{len(sizes)}q", *sizes), tile]
            parts += [struct.pack(f"<{len(codes)}b", *codes), struct.pack(f"<{count}i", *sums)]
    for size in (5, 64, 777):
        x, y = ([rng.gauss(0, 10 ** rng.uniform(-3, 1)) for _ in range(size)] for _ in range(2))
        for bits, normed in ((8, 1), (4, 1), (8, 0)):
            parts += [struct.pack("<4q", 3, size, bits, normed), struct.pack(f"<{size}f", *x)]
            parts += [struct.pack(f"<{size}f", *y)] * normed
        parts.append(struct.pack(f"<2q{2 * size}f", 4, size, *x, *y))
    return b"".join(parts)


if __name__ == "__main__":
    try:
        main()
    except subprocess.CalledProcessError as error:
        raise SystemExit(f"wheels: this failed: {' '.join(map(str, error.cmd))}") from None
