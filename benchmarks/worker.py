"""One run of our runtime, as `llama-bench` makes one of llama.cpp: a process that warms up and measures once.

    python -m benchmarks.worker full.ember THREADS PROMPT GENERATED

prints {"prefill_per_s", "decode_per_s", "isa"}, the first two in tokens per second. As in `llama-bench`, tokens are
random and nothing is sampled.
"""

import json
import sys
import time
from pathlib import Path

import numpy as np

from embernet.runtime import load
from embernet.runtime.native_library import isa_in_use


def measure(bundle: Path, threads: int, prompt: int, generated: int) -> dict[str, float | str]:
    model = load(bundle, threads=threads)
    ids = np.random.default_rng(0).integers(3, model.manifest.vocab_size, prompt + generated).tolist()

    def run(generated: int) -> tuple[float, float]:
        """Seconds of the prompt, and of the tokens after it."""
        context = model.new_context(prompt, None, room=generated)
        started = time.perf_counter()
        context.feed(ids[:prompt])
        prefilled = time.perf_counter()
        for token in ids[prompt : prompt + generated]:
            context.feed([token])
        return prefilled - started, time.perf_counter() - prefilled

    run(2)
    prefill, decode = run(generated)
    return {"prefill_per_s": prompt / prefill, "decode_per_s": generated / decode, "isa": isa_in_use()}


if __name__ == "__main__":
    sys.stdout.write(json.dumps(measure(Path(sys.argv[1]), *map(int, sys.argv[2:5]))) + "\n")
