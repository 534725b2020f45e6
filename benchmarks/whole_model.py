"""Compare whole language models: a bundle in our runtime, and the same shapes in llama.cpp.

    python -m benchmarks.build_llama_cpp
    python -m benchmarks.write_gguf --model full.ember
    python -m benchmarks.whole_model --model full.ember -t 1 -t 2

First the files are read from the disk in order, so that the page cache holds all of them in the same large pieces.
Every round runs each contestant once in a process of its own, on the same cores, with the same number of threads: the
prompt of 84 tokens, and 64 tokens one by one after 84. It also measures how fast memory can be read, for the share of
that speed at which weights arrive. About 20 seconds per round and number of threads on idle cores.
"""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

from benchmarks.build_llama_cpp import LLAMA_BENCH
from benchmarks.common import ROOT, Record, program_parser, say, turns
from benchmarks.write_gguf import TYPES, gguf_path

OURS = "embernet"
PROMPT, GENERATED = 84, 64  # tokens: an image and a question; an answer


def run(command: list[str]) -> tuple[Any, int]:
    """What a command prints as JSON, and the most memory it had resident, in bytes."""
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE) as process:
        assert process.stdout
        output = process.stdout.read()
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode != 0:
        raise SystemExit(f"{' '.join(command)}: failed")
    return json.loads(output), usage.ru_maxrss * 1024


def read_from_disk(path: Path) -> None:
    """Have the page cache forget a file, and read it in order: how it was written or used before no longer matters."""
    with open(path, "rb", buffering=0) as file:
        os.fsync(file.fileno())
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
        while file.read(1 << 20):
            pass


def run_ours(bundle: Path, threads: int) -> dict[str, Any]:
    """What the worker prints."""
    worker = [sys.executable, "-m", "benchmarks.worker"]
    return dict(run([*worker, str(bundle), str(threads), str(PROMPT), str(GENERATED)])[0])


def run_llama_bench(llama_bench: Path, gguf: Path, threads: int) -> dict[str, Any]:
    """prefill_per_s, decode_per_s (tokens per second), peak_rss_bytes."""
    sizes = ["-p", str(PROMPT), "-n", str(GENERATED), "-d", f"0,{PROMPT}"]
    tests, peak = run([str(llama_bench), "-m", str(gguf), "-t", str(threads), *sizes, "-r", "1", "-o", "json"])
    speeds = {(t["n_prompt"], t["n_gen"], t["n_depth"]): t["avg_ts"] for t in tests}
    return {
        "prefill_per_s": speeds[PROMPT, 0, 0],
        "decode_per_s": speeds[0, GENERATED, PROMPT],
        "peak_rss_bytes": peak,
    }


def main() -> None:
    parser = program_parser(__doc__, rounds=10)
    parser.add_argument("--model", type=Path, required=True, help="bundle")
    parser.add_argument("-t", "--threads", type=int, action="append", help="number of threads; may be repeated")
    parser.add_argument("--llama-bench", type=Path, default=LLAMA_BENCH, help="program of llama.cpp")
    parser.add_argument("--gguf", type=Path, action="append", help="file of the same shapes; may be repeated")
    arguments = parser.parse_args()
    bundle: Path = arguments.model.resolve()
    ggufs = [path.resolve() for path in arguments.gguf or [gguf_path(bundle, kind) for kind in TYPES]]
    for path in (arguments.llama_bench, *ggufs):
        if not path.is_file():
            raise SystemExit(f"{path}: is not there; see python -m benchmarks.whole_model --help")
    contestants = {OURS: bundle, **{f"llama.cpp {path.stem.rpartition('-')[2]}": path for path in ggufs}}

    for path in contestants.values():
        for file in _files(path):
            read_from_disk(file)
    record = Record("whole_model")
    samples = []
    cores = sorted(os.sched_getaffinity(0))
    for threads in arguments.threads or [1]:
        os.sched_setaffinity(0, cores[:threads])  # of this process and all that it starts
        for number, name in turns(list(contestants), arguments.rounds):
            path = contestants[name]
            ours = name == OURS
            sample = run_ours(path, threads) if ours else run_llama_bench(arguments.llama_bench, path, threads)
            samples.append({"contestant": name, "threads": threads, "round": number, **sample})
            speeds = f"{sample['prefill_per_s']:8.1f} {sample['decode_per_s']:8.1f} tokens/s"
            say(f"{threads} threads, round {number + 1}, {name:18} {speeds}")
    record.save(
        arguments.output,
        prompt=PROMPT,
        generated=GENERATED,
        file_bytes={name: sum(f.stat().st_size for f in _files(path)) for name, path in contestants.items()},
        samples=samples,
    )


def _files(path: Path) -> list[Path]:
    return list(path.iterdir()) if path.is_dir() else [path]


if __name__ == "__main__":
    main()
