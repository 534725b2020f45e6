"""Builds of the native code that tests use: for this machine, and for others that it has to emulate."""

import functools
import os
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

ROOT = Path(__file__).parent.parent
BUILD = ROOT / "build"

CROSS_COMPILER, EMULATOR = "aarch64-linux-gnu-g++", "qemu-aarch64-static"
SIMDE = Path("/usr/include/simde")


def is_x86() -> bool:
    return os.uname().machine == "x86_64"


def can_emulate() -> bool:
    """Whether this machine can build for a Raspberry Pi and run the result."""
    return shutil.which(CROSS_COMPILER) is not None and shutil.which(EMULATOR) is not None


def can_emulate_vnni() -> bool:
    """Whether this machine can compile AVX-512 and AVX-VNNI kernels to what every x86-64 CPU runs."""
    return is_x86() and SIMDE.is_dir()


_BUILDS = {
    "native": (),
    "sanitized": ("-DSANITIZE=ON",),
    "simde": ("-DEMULATE_VNNI=ON", "-DSANITIZE=ON"),
    "aarch64": (
        "-DCMAKE_SYSTEM_NAME=Linux",
        "-DCMAKE_SYSTEM_PROCESSOR=aarch64",
        f"-DCMAKE_CXX_COMPILER={CROSS_COMPILER}",
        "-DCMAKE_EXE_LINKER_FLAGS=-static",  # the emulator needs no foreign libraries then
    ),
}


@functools.cache
def build(target: str, kind: str = "native") -> Path:
    """Build one target of CMakeLists.txt and return the folder it is in; workers of a test run share it."""
    folder = BUILD / kind
    options = _BUILDS[kind]
    folder.mkdir(parents=True, exist_ok=True)
    # A lock of the file system: two workers must not build in one folder at once.
    lock = ["flock", str(folder / "lock")]
    subprocess.run([*lock, "cmake", "-S", ROOT, "-B", folder, *options], check=True, stdout=subprocess.DEVNULL)
    subprocess.run([*lock, "cmake", "--build", folder, "--target", target], check=True, stdout=subprocess.DEVNULL)
    return folder


@dataclass(frozen=True)
class Isa:
    """An instruction set: what EMBERNET_ISA calls it, in which build, and the emulated CPU it needs, if any."""

    name: str
    build: str = "native"
    emulated_cpu: str | None = None

    def __str__(self) -> str:
        return f"{self.name}, {self.emulated_cpu or self.build}"


def isas() -> list[Isa]:
    """Every instruction set that this machine runs, itself, with sanitizers, or by emulation."""
    driver = build("kernel_driver") / "kernel_driver"
    native = subprocess.run([driver, "list"], check=True, stdout=subprocess.PIPE, text=True).stdout.split()
    found = [Isa(name, kind) for kind in ("native", "sanitized") for name in native]
    if can_emulate_vnni():
        found += [Isa(name, "simde") for name in ("avx512_vnni", "avx_vnni")]
    if is_x86() and can_emulate():
        found += [Isa(name, "aarch64", "cortex-a53") for name in ("neon", "portable")]
        found.append(Isa("neon_dot", "aarch64", "max"))
    return found


class KernelDriver:
    """Calls the kernels of an instruction set (tests/native/kernel_driver.cpp)."""

    def __init__(self, isa: Isa) -> None:
        command = [str(build("kernel_driver", isa.build) / "kernel_driver")]
        if isa.emulated_cpu:
            command = [EMULATOR, "-cpu", isa.emulated_cpu, *command]
        environment = os.environ | {"EMBERNET_ISA": isa.name}
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=environment)

    def close(self) -> None:
        assert self._process.stdin
        assert self._process.stdout
        self._process.stdin.close()
        self._process.stdout.close()
        assert self._process.wait() == 0

    def ternary(self, tile: NDArray[np.uint8], codes: NDArray[np.int8]) -> NDArray[np.int32]:
        """tile (groups, 64), codes (count, K) -> (count, 16)"""
        return self._multiply([1], tile, codes)

    def int8(self, tile: NDArray[np.int8], codes: NDArray[np.int8], *, take_outliers: bool = True) -> NDArray[np.int32]:
        """tile (groups, 64), codes (count, K) -> (count, 16)"""
        return self._multiply([2, take_outliers], tile, codes)

    def row(self, tiles: NDArray, codes: NDArray[np.int8]) -> NDArray[np.int32]:
        """tiles (n, groups, 64), uint8 for ternary weights; codes (2, K), which tiles meet in turn -> (n, 16)"""
        padded = _pad(codes)
        sums = codes.sum(axis=1, dtype=np.int32)
        self._send(8, tiles.dtype == np.uint8, *tiles.shape[:2], padded.shape[1], tiles, padded, sums)
        return self._receive(np.int32, len(tiles) * 16).reshape(-1, 16)

    def quantize(
        self, x: NDArray[np.float32], norm_weight: NDArray[np.float32] | None, bits: int
    ) -> tuple[NDArray[np.int8], np.float32, int]:
        """x (K,) -> codes (K,), step, sum of the codes"""
        arrays = [x] if norm_weight is None else [x, norm_weight]
        self._send(3, x.size, bits, norm_weight is not None, *arrays)
        return self._receive(np.int8, x.size), self._receive(np.float32, 1)[0], int(self._receive(np.int32, 1)[0])

    def gate(self, gate: NDArray[np.float32], up: NDArray[np.float32]) -> NDArray[np.float32]:
        self._send(4, gate.size, gate, up)
        return self._receive(np.float32, gate.size)

    def gelu(self, x: NDArray[np.float32]) -> NDArray[np.float32]:
        self._send(6, x.size, x)
        return self._receive(np.float32, x.size)

    def layer_norm(
        self, x: NDArray[np.float32], weight: NDArray[np.float32], bias: NDArray[np.float32]
    ) -> NDArray[np.float32]:
        """eps is 1e-6."""
        self._send(7, x.size, x, weight, bias)
        return self._receive(np.float32, x.size)

    def attend(
        self, queries: NDArray[np.float32], keys: NDArray[np.float32], values: NDArray[np.float32], visible: list[int]
    ) -> NDArray[np.float32]:
        """queries (rows, size), keys and values (count, size); row m sees the first visible[m] keys -> (rows, size)"""
        rows, size = queries.shape
        self._send(5, rows, size, len(keys), queries, keys, values, np.array(visible, np.int64))
        width = -(-size // 16) * 16
        return self._receive(np.float32, rows * width).reshape(rows, width)[:, :size]

    def _multiply(self, operation: list[int], tile: NDArray, codes: NDArray[np.int8]) -> NDArray[np.int32]:
        padded = _pad(codes)
        self._send(*operation, len(tile), *padded.shape, tile, padded, codes.sum(axis=1, dtype=np.int32))
        return self._receive(np.int32, len(codes) * 16).reshape(-1, 16)

    def _send(self, *values: int | NDArray) -> None:
        assert self._process.stdin
        for value in values:
            array = value if isinstance(value, np.ndarray) else np.array([value], np.int64)
            self._process.stdin.write(np.ascontiguousarray(array).tobytes())
        self._process.stdin.flush()

    def _receive(self, dtype: type, count: int) -> NDArray:
        assert self._process.stdout
        size = count * np.dtype(dtype).itemsize
        return np.frombuffer(self._process.stdout.read(size), dtype)


def _pad(codes: NDArray[np.int8]) -> NDArray[np.int8]:
    return np.pad(codes, ((0, 0), (0, -codes.shape[1] % 64)))
