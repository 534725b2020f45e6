"""What the native library asks of a CPU (wheels/scan.py). The wheels themselves: `make wheels`, which checks them."""

import shutil
import subprocess
from pathlib import Path

import pytest

from tests.native_builds import CROSS_COMPILER, ROOT, build, is_x86
from wheels.scan import DISPATCHED, scan

TOOLS = {"aarch64": "aarch64-linux-gnu-", "x86_64": ""}
needs_cross = pytest.mark.skipif(shutil.which(CROSS_COMPILER) is None, reason=f"needs {CROSS_COMPILER}")
needs_x86 = pytest.mark.skipif(not is_x86(), reason="needs an x86-64")
MACHINES = [pytest.param("aarch64", marks=needs_cross), pytest.param("x86_64", marks=needs_x86)]

# Assembly for the file that is called only after the CPU was asked.
KERNELS = {
    "aarch64": ("kernels_neon_dot.cpp", ".arch armv8.2-a+dotprod\nsdot v0.4s, v1.16b, v2.16b\n"),
    "x86_64": ("kernels_avx2.cpp", "vpmaddubsw %ymm0, %ymm1, %ymm2\n"),
}


def fake_build(folder: Path, machine: str, files: dict[str, str]) -> Path:
    """A build folder of CMake whose files hold the given assembly."""
    objects = folder / "CMakeFiles" / "kernels.dir"
    objects.mkdir(parents=True)
    paths = [objects / f"{name}.o" for name in files]
    for path, assembly in zip(paths, files.values(), strict=True):
        source = f".text\nfunction_of_{path.name.split('.')[0]}:\n{assembly}"
        subprocess.run([f"{TOOLS[machine]}as", "-o", path, "-"], input=source, text=True, check=True)
    subprocess.run([f"{TOOLS[machine]}ld", "-shared", "-o", folder / "libembernet_ops.so", *paths], check=True)
    return folder


@needs_cross
def test_the_library_runs_on_every_raspberry_pi_of_64_bits():
    assert scan(build("embernet_ops", "aarch64"), "aarch64") == []


@needs_x86
def test_the_library_runs_on_every_x86_64():
    macros = subprocess.run(
        ["g++", "-dM", "-E", "-x", "c++", "/dev/null"], stdout=subprocess.PIPE, text=True, check=True
    )
    if "__SSE3__" in macros.stdout:
        pytest.skip("the compiler here builds for a newer x86-64")
    assert scan(build("embernet_ops"), "x86_64") == []


def test_the_list_of_files_is_right():
    assert all((ROOT / "runtime" / "native" / name).is_file() for name in DISPATCHED)


@pytest.mark.parametrize("machine", MACHINES)
def test_a_file_that_is_chosen_may_use_what_it_is_for(machine, tmp_path):
    name, kernel = KERNELS[machine]
    # Some that are newer, but do nothing on an old CPU.
    padding = ".byte 0x66, 0x66, 0x2e, 0x0f, 0x1f, 0x84, 0, 0, 0, 0, 0\n"
    harmless = {"aarch64": "bti c\npaciasp\n", "x86_64": f"endbr64\n{padding}"}[machine]
    assert scan(fake_build(tmp_path, machine, {name: kernel, "kernels_portable.cpp": harmless}), machine) == []


@pytest.mark.parametrize(
    ("machine", "instruction", "switch"),
    [
        pytest.param("aarch64", instruction, f".arch {architecture}\n", marks=needs_cross)
        for instruction, architecture in (
            ("sdot v0.4s, v1.16b, v2.16b", "armv8.2-a+dotprod"),
            ("ldadd w0, w1, [x2]", "armv8.1-a"),
            ("sqrdmlah v0.4s, v1.4s, v2.4s", "armv8.1-a"),
            ("aese v0.16b, v1.16b", "armv8-a+crypto"),
            ("pmull v0.1q, v1.1d, v2.1d", "armv8-a+crypto"),
            ("fadd v0.8h, v1.8h, v2.8h", "armv8.2-a+fp16"),
            ("ptrue p0.b", "armv8.2-a+sve"),
        )
    ]
    + [
        pytest.param("x86_64", instruction, "", marks=needs_x86)
        for instruction in (
            "vpaddd %xmm0,%xmm1,%xmm2",
            "vpdpbusd %zmm0,%zmm1,%zmm2",
            "pmaddubsw %xmm0,%xmm1",
            "haddps %xmm0,%xmm1",
            "popcnt %rax,%rbx",
            "roundss $0x0,%xmm0,%xmm1",
        )
    ],
)
def test_an_instruction_that_old_cpus_lack_is_refused_elsewhere(machine, instruction, switch, tmp_path):
    name, kernel = KERNELS[machine]
    files = {name: kernel, "kernels_portable.cpp": f"nop\n{switch}{instruction}\n"}
    (complaint,) = scan(fake_build(tmp_path, machine, files), machine)
    assert complaint.startswith(f"kernels_portable.cpp: function_of_kernels_portable uses '{instruction}', which ")


@pytest.mark.parametrize("machine", MACHINES)
def test_kernels_without_the_instruction_they_are_for_are_refused(machine, tmp_path):
    name, _ = KERNELS[machine]
    complaints = scan(fake_build(tmp_path, machine, {name: "nop\n"}), machine)
    assert f"{name} has no {DISPATCHED[name]}, which it is there for" in complaints


@pytest.mark.parametrize("machine", MACHINES)
def test_a_function_that_the_linker_may_take_for_others_is_refused(machine, tmp_path):
    name, kernel = KERNELS[machine]
    (complaint,) = scan(fake_build(tmp_path, machine, {name: f".weak clip\nclip:\n{kernel}"}), machine)
    assert complaint == f"{name} shares clip with files that must run everywhere: make it static"


@pytest.mark.parametrize("machine", MACHINES)
def test_what_the_linker_adds_is_scanned_too(machine, tmp_path):
    name, kernel = KERNELS[machine]
    folder = fake_build(tmp_path, machine, {name: kernel, "from_elsewhere.cpp": kernel})
    (folder / "CMakeFiles" / "kernels.dir" / "from_elsewhere.cpp.o").unlink()
    (complaint,) = scan(folder, machine)
    assert complaint.startswith(f"the library uses {DISPATCHED[name]} outside of our files")
