"""Build the opponent: llama.cpp as the source distribution of llama-cpp-python holds it.

    python -m benchmarks.build_llama_cpp

fetches the distribution with pip and builds `llama-bench` and ggml's libraries into build/benchmarks/llama.cpp, for
this machine's CPU (GGML_NATIVE), optimised, static, with llama.cpp's own choice of threads (OpenMP where there is a
compiler for it). Needs cmake and a C++ compiler; about 5 minutes on two idle cores.
"""

import argparse
import os
import subprocess
import sys
import tarfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PACKAGE, VERSION = "llama-cpp-python", "0.3.36"
FOLDER = ROOT / "build" / "benchmarks" / "llama.cpp"
SOURCE, BUILD = FOLDER / f"source-{VERSION}", FOLDER / "build"
LLAMA_BENCH = BUILD / "bin" / "llama-bench"
OPTIONS = (
    "-DCMAKE_BUILD_TYPE=Release",
    "-DGGML_NATIVE=ON",
    "-DBUILD_SHARED_LIBS=OFF",
    # What is not measured is not built.
    *(f"-DLLAMA_BUILD_{part}=OFF" for part in ("TESTS", "EXAMPLES", "SERVER", "APP", "UI")),
    "-DLLAMA_OPENSSL=OFF",
)


def fetch() -> None:
    """Download and unpack the sources, unless they are there."""
    if SOURCE.is_dir():
        return
    FOLDER.mkdir(parents=True, exist_ok=True)
    pip = [sys.executable, "-m", "pip", "download", "-q", "--no-deps", "--no-binary", PACKAGE]
    subprocess.run([*pip, "-d", str(FOLDER), f"{PACKAGE}=={VERSION}"], check=True)
    part = FOLDER / "source.part"
    with tarfile.open(FOLDER / f"llama_cpp_python-{VERSION}.tar.gz") as archive:
        prefix = f"llama_cpp_python-{VERSION}/vendor/llama.cpp/"
        members = [
            member.replace(name=member.name.removeprefix(prefix), deep=False)
            for member in archive
            if member.name.startswith(prefix) and not member.name.startswith(f"{prefix}tools/ui/")
        ]
        archive.extractall(part, members, filter="data")
    part.rename(SOURCE)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("-j", "--jobs", type=int, default=os.cpu_count(), help="compilers at a time")
    arguments = parser.parse_args()
    fetch()
    subprocess.run(["cmake", "-S", SOURCE, "-B", BUILD, *OPTIONS], check=True)
    targets = ["llama-bench", "ggml", "ggml-cpu", "ggml-base"]
    subprocess.run(["cmake", "--build", BUILD, "-j", str(arguments.jobs), "--target", *targets], check=True)
    sys.stdout.write(f"{LLAMA_BENCH}\n")


if __name__ == "__main__":
    main()
