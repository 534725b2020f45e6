"""Benchmark of a bundle on this machine: times, memory, how near the decoder comes to reading at full speed, and
whether the machine was fit for being measured.

docs/benchmarking.md defines every number.
"""

import platform
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timezone
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np

import embernet.runtime.session  # noqa: F401  (imports the engine, so that loading a bundle does not)
from embernet import __version__
from embernet.device.bandwidth import ReadBandwidth, read_bandwidth
from embernet.device.bench_result import SCHEMA
from embernet.device.board_watch import Watch
from embernet.device.cpu import cpu_name, is_emulated, physical_cores
from embernet.device.memory import MemoryUse, memory_use, read_into_page_cache
from embernet.device.start import STARTS, measure_starts
from embernet.device.workload import Workload, choose_workload, first_token
from embernet.json_file import printable
from embernet.runtime.bundle import WEIGHTS_FILE, open_bundle
from embernet.runtime.image import load_image, preprocess
from embernet.runtime.model import Model, load
from embernet.runtime.native_library import isa_in_use

# Of one round; the progress callback is called after each.
STAGES = ("image", "prefill", "decode")


@dataclass(frozen=True)
class Round:
    """Nanoseconds. prefill includes choosing the first token; tokens has one time for each of the n_gen after it."""

    preprocess: int
    vision: int
    prefill: int
    tokens: tuple[int, ...]


@dataclass
class PeakMemory:
    """The largest values seen at the end of stages, and the kernel's own record of resident memory. Bytes."""

    uses: list[tuple[str, MemoryUse]] = field(default_factory=list)

    def sample(self, stage: str) -> None:
        if use := memory_use():
            self.uses.append((stage, use))

    def to_dict(self) -> dict[str, Any]:
        def most(name: str, stages: Sequence[str]) -> int | None:
            return max((getattr(use, name) for stage, use in self.uses if stage in stages), default=None)

        stages = ("load", *STAGES)
        kinds = ("resident_bytes", "proportional_bytes", "anonymous_bytes")
        return {
            "peak_rss_bytes": most("peak_resident_bytes", stages),
            "peak_pss_bytes": most("proportional_bytes", stages),
            "anonymous_bytes": most("anonymous_bytes", stages),
            "stage_memory": {stage: {kind: most(kind, (stage,)) for kind in kinds} for stage in stages},
        }


def run_bench(
    path_or_name: str,
    *,
    threads: int | None = None,
    hugepages: bool = False,
    spin: bool = False,
    n_prompt: int | None = None,
    n_gen: int | None = None,
    repetitions: int = 5,
    image: str | None = None,
    cold_start: bool = False,
    progress: Callable[[int], object] = lambda _count: None,
    root: Path = Path("/"),
) -> dict[str, Any]:
    """Load a bundle, warm up with one round, measure `repetitions` rounds, and return the result as JSON values.

    n_prompt: text tokens after the image's; n_gen: tokens of the answer; None = what is usual and fits. image: a path,
    None = an image made here. cold_start: let fresh processes come to their first token before all else. root: where
    /proc and /sys tell how the board is. progress is called with 1 after every step, `count_steps` times.
    """
    test_time = datetime.now(timezone.utc).isoformat(timespec="seconds")
    watch = Watch(root)
    starts: dict[str, dict[str, Any] | None] = {"cold_start": None, "warm_start": None}
    if cold_start:
        starts = measure_starts(
            open_bundle(path_or_name),
            progress,
            threads=threads,
            hugepages=hugepages,
            spin=spin,
            n_prompt=n_prompt,
            n_gen=n_gen,
            image=image,
        )
        watch.look()
    memory = PeakMemory()
    model = _load_warm(path_or_name, threads, hugepages, spin)
    memory.sample("load")
    work = choose_workload(model, n_prompt, n_gen, image)
    decode_starts = []

    def after_stage(stage: str) -> None:
        memory.sample(stage)
        watch.glance()
        progress(1)
        if stage == "prefill":  # what follows is the decode
            decode_starts.append(watch.now_s())

    rounds = []
    watch.look()
    for _ in range(1 + repetitions):
        rounds.append(_run_round(model, work, after_stage))
        watch.look()
    rounds = rounds[1:]
    # After the last look at memory: this measurement has a buffer of its own.
    n_threads = threads or physical_cores()
    bandwidth = read_bandwidth(model.bundle.path / WEIGHTS_FILE, n_threads)
    watch.look_at_throttling()
    manifest = model.manifest
    return {
        "schema": SCHEMA,
        "test_time": test_time,
        "model": {"name": manifest.name, "family": manifest.family, "sha256": model.bundle.sha256()},
        "model_size": model.bundle.size(),
        "model_n_params": manifest.parameters["total"],
        "cpu_info": cpu_name(),
        "n_threads": n_threads,
        "kernel": isa_in_use(),
        "hugepages": hugepages,
        "spin": spin,
        "emulated": is_emulated(),
        **watch.to_dict(),
        "versions": {
            "embernet": __version__,
            "onnxruntime": version("onnxruntime"),
            "numpy": np.__version__,
            "python": platform.python_version(),
        },
        "image_path": image and printable(image),
        "n_image": model.num_image_tokens,
        "n_prompt": len(work.prompt),
        "n_gen": work.n_gen,
        "repetitions": repetitions,
        **{f"{name}_ms": start and start["total_ms"] for name, start in starts.items()},
        **starts,
        "load_ms": model.load_ms,
        **summarize(rounds, model.num_image_tokens + len(work.prompt)),
        **memory.to_dict(),
        **_bandwidth(rounds, model.decode_weight_bytes, bandwidth),
        "samples": {
            "preprocess_ns": [r.preprocess for r in rounds],
            "vision_ns": [r.vision for r in rounds],
            "prefill_ns": [r.prefill for r in rounds],
            "decode_ns": [list(r.tokens) for r in rounds],
        },
        "course": {"decode_start_s": decode_starts[1:], **watch.course()},
    }


def count_steps(repetitions: int, cold_start: bool) -> int:
    """How often `run_bench` calls for progress."""
    return (1 + repetitions) * len(STAGES) + (STARTS if cold_start else 0)


def summarize(rounds: Sequence[Round], n_prefill: int) -> dict[str, Any]:
    """Medians, 90th percentiles and rates. avg_ts, stddev_ts and samples_ns are llama-bench's, of the decode."""
    prefill_ms, token_ms = (_median_ms(values) for values in ([r.prefill for r in rounds], _tokens(rounds)))
    totals = [sum(r.tokens) for r in rounds]
    rates = [1e9 * len(r.tokens) / total for r, total in zip(rounds, totals, strict=True)]
    return {
        **_figures("preprocess", [r.preprocess for r in rounds]),
        **_figures("vision", [r.vision for r in rounds]),
        **_figures("prefill", [r.prefill for r in rounds]),
        "prefill_tokens_per_second": 1e3 * n_prefill / prefill_ms,
        **_figures("token", _tokens(rounds)),
        "decode_tokens_per_second": 1e3 / token_ms,
        **_figures("time_to_first_token", [r.preprocess + r.vision + r.prefill for r in rounds]),
        "avg_ts": statistics.fmean(rates),
        "stddev_ts": statistics.stdev(rates) if len(rates) > 1 else None,
        "samples_ns": totals,
    }


def _bandwidth(rounds: Sequence[Round], weight_bytes: int, measured: ReadBandwidth | None) -> dict[str, Any]:
    effective = 1e3 * weight_bytes / _median_ms(_tokens(rounds))
    return {
        "decode_weight_bytes": weight_bytes,
        "weight_bandwidth_bytes_per_second": effective,
        "read_bandwidth_bytes_per_second": measured and measured.bytes_per_second,
        "read_bandwidth_source": measured and measured.source,
        "read_bandwidth_size_bytes": measured and measured.size_bytes,
        "weight_bandwidth_share": measured and effective / measured.bytes_per_second,
        "ceiling_ts": measured and measured.bytes_per_second / weight_bytes,
    }


def _tokens(rounds: Sequence[Round]) -> list[int]:
    return [token for r in rounds for token in r.tokens]


def _figures(name: str, samples_ns: Sequence[int]) -> dict[str, float]:
    return {f"{name}_ms": _median_ms(samples_ns), f"{name}_p90_ms": float(np.percentile(samples_ns, 90)) / 1e6}


def _median_ms(samples_ns: Sequence[int]) -> float:
    return statistics.median(samples_ns) / 1e6


def _load_warm(path_or_name: str, threads: int | None, hugepages: bool, spin: bool) -> Model:
    """Load with every file in the page cache; the engine is imported already. So load_ms is of the sessions alone."""
    bundle = open_bundle(path_or_name)
    read_into_page_cache(bundle.path / name for name in bundle.manifest.files)
    return load(path_or_name, threads=threads, hugepages=hugepages, spin=spin)


def _run_round(model: Model, work: Workload, after_stage: Callable[[str], object]) -> Round:
    """One image, one prefill, one answer, by the code that answers a user. End tokens end nothing here."""
    started = time.perf_counter_ns()
    pixel_values = preprocess(load_image(work.image).rgb, model.manifest.image)
    preprocessed = time.perf_counter_ns()
    features = model.encode_pixels(pixel_values)
    encoded = time.perf_counter_ns()
    after_stage("image")

    context = model.new_context(len(work.prompt), features, room=work.n_gen)
    reading = time.perf_counter_ns()
    tokens = first_token(context, work, features)
    prefill = time.perf_counter_ns() - reading
    after_stage("prefill")

    times = []
    for _ in range(work.n_gen):
        started_token = time.perf_counter_ns()
        next(tokens)
        times.append(time.perf_counter_ns() - started_token)
    after_stage("decode")
    return Round(preprocessed - started, encoded - preprocessed, prefill, tuple(times))
