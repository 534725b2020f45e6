"""Benchmark of a bundle on this machine: times, memory, and how near the decoder comes to reading at full speed.

docs/benchmarking.md defines every number.
"""

import platform
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timezone
from importlib.metadata import version
from typing import Any

import numpy as np
from numpy.typing import NDArray

import embernet.runtime.session  # noqa: F401  (imports the engine, so that loading a bundle does not)
from embernet import __version__
from embernet.device.bandwidth import ReadBandwidth, read_bandwidth
from embernet.device.cpu import cpu_name, is_emulated, physical_cores
from embernet.device.memory import MemoryUse, memory_use, read_into_page_cache
from embernet.errors import InputError
from embernet.runtime.bundle import WEIGHTS_FILE, open_bundle
from embernet.runtime.generation import generate
from embernet.runtime.image import ImageSource, load_image, preprocess
from embernet.runtime.model import Model, load
from embernet.runtime.native_library import isa_in_use
from embernet.runtime.sampling import Sampler, Sampling

SCHEMA = "embernet.bench/1"
# The image and the question of an ordinary first turn, together.
DEFAULT_PREFILL = 84
DEFAULT_GEN = 32
_NO_END_TOKEN = -1
# Of one round; the progress callback is called after each.
STAGES = ("image", "prefill", "decode")


@dataclass(frozen=True)
class Workload:
    """What one round does: look at the image, read it and the prompt, generate n_gen tokens."""

    image: ImageSource
    prompt: list[int]
    n_gen: int


@dataclass(frozen=True)
class Round:
    """Nanoseconds. prefill includes choosing the first token; tokens has one time for each of the n_gen after it."""

    preprocess: int
    vision: int
    prefill: int
    tokens: tuple[int, ...]


@dataclass
class PeakMemory:
    """The largest values seen at certain points, and the kernel's own record of resident memory. Bytes."""

    uses: list[MemoryUse] = field(default_factory=list)

    def sample(self) -> None:
        if use := memory_use():
            self.uses.append(use)

    def to_dict(self) -> dict[str, int | None]:
        def most(name: str) -> int | None:
            return max((getattr(use, name) for use in self.uses), default=None)

        return {
            "peak_rss_bytes": most("peak_resident_bytes"),
            "peak_pss_bytes": most("proportional_bytes"),
            "anonymous_bytes": most("anonymous_bytes"),
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
    progress: Callable[[int], object] = lambda _count: None,
) -> dict[str, Any]:
    """Load a bundle, warm up with one round, measure `repetitions` rounds, and return the result as JSON values.

    n_prompt: text tokens after the image's; n_gen: tokens of the answer; None = what is usual and fits. image: a path,
    None = an image made here. progress is called with 1 after every stage, (repetitions + 1) * len(STAGES) times.
    """
    test_time = datetime.now(timezone.utc).isoformat(timespec="seconds")
    memory = PeakMemory()
    model = _load_warm(path_or_name, threads, hugepages, spin)
    memory.sample()
    work = _workload(model, n_prompt, n_gen, image)

    def after_stage() -> None:
        memory.sample()
        progress(1)

    rounds = [_run_round(model, work, after_stage) for _ in range(1 + repetitions)][1:]
    # After the last look at memory: this measurement has a buffer of its own.
    n_threads = threads or physical_cores()
    bandwidth = read_bandwidth(model.bundle.path / WEIGHTS_FILE, n_threads)
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
        "versions": {
            "embernet": __version__,
            "onnxruntime": version("onnxruntime"),
            "numpy": np.__version__,
            "python": platform.python_version(),
        },
        "image_path": image,
        "n_image": model.num_image_tokens,
        "n_prompt": len(work.prompt),
        "n_gen": work.n_gen,
        "repetitions": repetitions,
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
    }


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


def _workload(model: Model, n_prompt: int | None, n_gen: int | None, image: str | None) -> Workload:
    """InputError if the tokens asked for do not fit the context."""
    n_image, room = model.num_image_tokens, model.context_length - model.num_image_tokens
    if n_gen is None:
        n_gen = max(1, min(DEFAULT_GEN, room - (n_prompt or 1)))
    if n_prompt is None:
        n_prompt = max(1, min(DEFAULT_PREFILL - n_image, room - n_gen))
    if n_prompt + n_gen > room:
        raise InputError(
            f"{model.manifest.name}: the tokens do not fit the context (found {n_image} image, {n_prompt} prompt and "
            f"{n_gen} new tokens, expected at most {model.context_length} together)"
        )
    rng = np.random.default_rng(0)
    prompt = [model.manifest.bos_token_id, *rng.integers(0, model.manifest.vocab_size, n_prompt - 1).tolist()]
    size = model.manifest.image.size
    made: NDArray[np.uint8] = rng.integers(0, 256, (size, size, 3), np.uint8)
    return Workload(made if image is None else image, prompt, n_gen)


def _run_round(model: Model, work: Workload, after_stage: Callable[[], object]) -> Round:
    """One image, one prefill, one answer, by the code that answers a user. End tokens end nothing here."""
    started = time.perf_counter_ns()
    pixel_values = preprocess(load_image(work.image).rgb, model.manifest.image)
    preprocessed = time.perf_counter_ns()
    features = model.encode_pixels(pixel_values)
    encoded = time.perf_counter_ns()
    after_stage()

    context = model.new_context(len(work.prompt), features, room=work.n_gen)
    reading = time.perf_counter_ns()
    first = context.feed(work.prompt, features)
    tokens = generate(context, first, Sampler(Sampling()), _NO_END_TOKEN, work.n_gen + 1)
    next(tokens)
    prefill = time.perf_counter_ns() - reading
    after_stage()

    times = []
    for _ in range(work.n_gen):
        started_token = time.perf_counter_ns()
        next(tokens)
        times.append(time.perf_counter_ns() - started_token)
    after_stage()
    return Round(preprocessed - started, encoded - preprocessed, prefill, tuple(times))
