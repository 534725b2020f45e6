"""The C++ programs of the comparisons, built when they are needed."""

import functools
import subprocess
from pathlib import Path

from benchmarks import build_llama_cpp
from benchmarks.common import BUILD, ROOT


@functools.cache
def program(target: str) -> Path:
    """Build a program of benchmarks/CMakeLists.txt, with ggml if llama.cpp has been built, and return its path."""
    folder = BUILD / "native"
    built = (build_llama_cpp.BUILD / "ggml" / "src" / "libggml-cpu.a").is_file()
    options = {
        "BENCHMARKS": "ON",
        "LLAMA_CPP": build_llama_cpp.SOURCE if built else "",
        "LLAMA_CPP_BUILD": build_llama_cpp.BUILD if built else "",
    }
    folder.mkdir(parents=True, exist_ok=True)
    configure = ["cmake", "-S", str(ROOT), "-B", str(folder), *(f"-D{name}={value}" for name, value in options.items())]
    subprocess.run(configure, check=True, stdout=subprocess.DEVNULL)
    subprocess.run(["cmake", "--build", folder, "--target", target], check=True, stdout=subprocess.DEVNULL)
    return folder / "benchmarks" / target


def read_bandwidth(threads: int, seconds: float = 1.0) -> float:
    """Bytes per second that so many threads read from memory in order."""
    command = [str(program("read_bandwidth")), str(threads), str(seconds)]
    return float(subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout)
