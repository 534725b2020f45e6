"""One run of our runtime, as `llama-bench` makes one of llama.cpp: a process that warms up and measures once.

    python -m benchmarks.worker full.ember THREADS PROMPT GENERATED

prints tokens per second, and what they are compared with: the bytes of weights that a token needs, and the bytes per
second that a loop reads that does nothing else. As in `llama-bench`, tokens are random and nothing is sampled.
"""

import json
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np

from embernet.device.bandwidth import read_bandwidth
from embernet.device.memory import memory_use
from embernet.runtime import load
from embernet.runtime.bundle import WEIGHTS_FILE
from embernet.runtime.native_library import isa_in_use


def measure(bundle: Path, threads: int, prompt: int, generated: int) -> dict[str, Any]:
    model = load(bundle, threads=threads, spin=True)  # as the threads of the others do
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
    memory = memory_use()  # before all weights are read
    bandwidth = read_bandwidth(bundle / WEIGHTS_FILE, threads)
    return {
        "prefill_per_s": prompt / prefill,
        "decode_per_s": generated / decode,
        "peak_rss_bytes": memory and memory.peak_resident_bytes,
        "weight_bytes_per_token": model.decode_weight_bytes,
        "read_bytes_per_s": bandwidth and bandwidth.bytes_per_second,
        "isa": isa_in_use(),
    }


if __name__ == "__main__":
    sys.stdout.write(json.dumps(measure(Path(sys.argv[1]), *map(int, sys.argv[2:5]))) + "\n")
