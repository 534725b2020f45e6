"""Time our ternary kernels against ggml's, on one thread.

    python -m benchmarks.kernels

Weights come from memory, contestants take turns, the clock is the thread's own (kernels.cpp). Without llama.cpp
(python -m benchmarks.build_llama_cpp) ours run alone. About a minute.
"""

import json
import subprocess

from benchmarks.common import Record, program_parser
from benchmarks.native import program


def main() -> None:
    arguments = program_parser(__doc__, rounds=40).parse_args()
    race = program("kernels_race")
    record = Record("kernels")
    output = subprocess.run([race, str(arguments.rounds)], check=True, stdout=subprocess.PIPE).stdout
    record.save(arguments.output, measurements=json.loads(output))


if __name__ == "__main__":
    main()
