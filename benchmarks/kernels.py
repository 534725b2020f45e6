"""Time our ternary kernels against ggml's, on one thread.

    python -m benchmarks.kernels

Weights come from memory, contestants take turns, the clock is the thread's own (kernels.cpp). Without llama.cpp
(python -m benchmarks.build_llama_cpp) ours run alone. About a minute.
"""

import json
import subprocess
from pathlib import Path

from benchmarks import build_llama_cpp
from benchmarks.common import BUILD, ROOT, Record, program_parser

TARGET = "kernels_race"


def build() -> Path:
    """Build kernels.cpp, with ggml if llama.cpp has been built, and return the program."""
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
    subprocess.run(["cmake", "--build", folder, "--target", TARGET], check=True, stdout=subprocess.DEVNULL)
    return folder / "benchmarks" / TARGET


def main() -> None:
    arguments = program_parser(__doc__, rounds=40).parse_args()
    race = build()
    record = Record("kernels")
    output = subprocess.run([race, str(arguments.rounds)], check=True, stdout=subprocess.PIPE).stdout
    record.save(arguments.output, measurements=json.loads(output))


if __name__ == "__main__":
    main()
