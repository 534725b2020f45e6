"""What runs inside the emulated machine, as its first process: the steps of a job, and a report on the console.

Under `-icount shift=0` the guest's clock advances one nanosecond per instruction, so `perf_counter_ns` counts
instructions. Only work whose pages are in memory counts right: waiting for a disk moves the clock too.
"""

import ctypes
import functools
import gc
import json
import os
import statistics
import sys
import time
import traceback
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort
from numpy.typing import NDArray

from embernet.device.emulation.report import report, say
from embernet.device.memory import read_into_page_cache
from embernet.runtime import load
from embernet.runtime.bundle import Bundle, open_bundle
from embernet.runtime.image import load_image, preprocess
from embernet.runtime.pipelines.base import Context, Step
from embernet.runtime.session import EngineOptions, Graph

POWER_OFF = 0x4321FEDC
MILLION = 1e6
PROFILES = Path("/tmp/profiles")  # noqa: S108 - the guest's own disk


def tokens(bundle: str, images: list[str], input_ids: list[int], new_tokens: int, isa: str) -> list[list[int]]:
    """The greedy answers to `input_ids` after each image (or array of pixels), by one engine with one thread."""
    before = os.environ.get("EMBERNET_ISA", "")
    os.environ["EMBERNET_ISA"] = isa
    try:
        model = load(bundle, threads=1)
    finally:
        os.environ["EMBERNET_ISA"] = before
    return [
        model.generate_ids(input_ids, read_pixels(model.bundle, image), max_new_tokens=new_tokens, temperature=0)
        for image in images
    ]


def stages(bundle: str, image: str, input_ids: list[int], new_tokens: int, repeats: int) -> dict[str, Any]:
    """Millions of instructions per stage with one thread, warm; positions of the prefill; greedy ids that follow."""
    read_into_page_cache(Path(bundle).iterdir())
    model = load(bundle, threads=1)
    rgb = load_image(image).rgb
    pixels = preprocess(rgb, model.manifest.image)
    features = model.encode_pixels(pixels)
    contexts: list[Context] = []

    def prefill() -> Step:
        contexts.append(model.new_context(len(input_ids), features, room=new_tokens))
        return contexts[-1].feed(input_ids, features)

    step, ids = prefill(), []
    for _ in range(new_tokens):
        ids.append(int(step.logits[-1].argmax()))
        step = contexts[0].feed(ids[-1:])
    counts = {
        "preprocess": measure(lambda: preprocess(rgb, model.manifest.image), repeats),
        "vision": measure(lambda: model.encode_pixels(pixels), repeats),
        "prefill": measure(prefill, repeats),
        "decode": statistics.median(measure(functools.partial(contexts[-1].feed, [token]), 1) for token in ids),
    }
    return {"positions": model.num_image_tokens + len(input_ids), "ids": ids, "millions": counts}


def vision_graph(bundle: str, graph: str, image: str, repeats: int) -> float:
    """Millions of instructions of another vision graph for the same model and image."""
    manifest = open_bundle(bundle).manifest
    read_into_page_cache(Path(graph).parent.iterdir())
    shape = (1, manifest.config["num_image_tokens"], manifest.config["hidden_size"])
    inputs = {"pixel_values": preprocess(load_image(image).rgb, manifest.image)}
    session = Graph(Path(graph), Path(graph + ".data"), EngineOptions(threads=1))
    session.run("image_features", shape, inputs)
    return measure(lambda: session.run("image_features", shape, inputs), repeats)


def operators(
    bundle: str, image: str, input_ids: list[int], new_ids: list[int]
) -> dict[str, list[tuple[str, int, float]]]:
    """Per stage: operator with the shapes of its inputs, how often it ran, millions of instructions; largest first."""
    read_into_page_cache(Path(bundle).iterdir())
    plain = ort.SessionOptions
    ort.SessionOptions = ProfilingOptions
    try:
        model = load(bundle, threads=1)
    finally:
        ort.SessionOptions = plain
    features = model.encode_pixels(read_pixels(model.bundle, image))
    context = model.new_context(len(input_ids), features, room=len(new_ids))
    context.feed(input_ids, features)
    for token in new_ids:
        context.feed([token])
    del context, model
    gc.collect()  # a session that ends writes its profile
    vision, _, decoder = (json.loads(path.read_text()) for path in sorted(PROFILES.iterdir()))
    return {
        "vision": summarize(vision, -1),
        "prefill": summarize(decoder, -1 - len(new_ids)),
        "decode": summarize(decoder, -1),
    }


def read_pixels(bundle: Bundle, image: str) -> NDArray[np.float32]:
    """pixel_values (1, 3, S, S) of an image, or an array of them that is stored as it is."""
    return np.load(image) if image.endswith(".npy") else preprocess(load_image(image).rgb, bundle.manifest.image)


def measure(work: Callable[[], object], repeats: int) -> float:
    """Millions of instructions of `work`: the median of so many runs."""
    counts = []
    for _ in range(repeats):
        started = time.perf_counter_ns()
        work()
        counts.append(time.perf_counter_ns() - started)
    return statistics.median(counts) / MILLION


class ProfilingOptions(ort.SessionOptions):  # type: ignore[misc]  # onnxruntime has no types
    """Every session writes a profile of its own, numbered in the order they were opened."""

    opened = 0

    def __init__(self) -> None:
        super().__init__()
        PROFILES.mkdir(exist_ok=True)
        self.enable_profiling = True
        self.profile_file_prefix = str(PROFILES / str(ProfilingOptions.opened))
        ProfilingOptions.opened += 1


def summarize(profile: list[dict[str, Any]], run: int) -> list[tuple[str, int, float]]:
    """Sum one run of a session (-1 = the last) by operator and shapes; microseconds are thousands of instructions."""
    runs = sorted((event for event in profile if event["name"] == "model_run"), key=lambda event: event["ts"])
    begin, end = runs[run]["ts"], runs[run]["ts"] + runs[run]["dur"]
    counts: dict[str, list[float]] = defaultdict(list)
    for event in profile:
        if event["cat"] == "Node" and event["name"].endswith("_kernel_time") and begin <= event["ts"] < end:
            shapes = (next(iter(shape.values())) for shape in event["args"]["input_type_shape"])
            name = " ".join([event["args"]["op_name"], *("x".join(map(str, shape)) for shape in shapes if shape)])
            counts[name].append(event["dur"] / 1e3)
    rows = [(name, len(values), sum(values)) for name, values in counts.items()]
    return [*sorted(rows, key=lambda row: -row[2]), ("the whole run", 1, runs[run]["dur"] / 1e3)]


STEPS: dict[str, Callable[..., Any]] = {step.__name__: step for step in (tokens, stages, vision_graph, operators)}


def main() -> None:
    """Run the steps of job.json in its own folder, report the result of each, and switch the machine off."""
    try:
        os.chdir(sys.argv[1])
        for step in json.loads(Path("job.json").read_text()):
            say(f"{step}")
            result = STEPS[step.pop("step")](**step)
            report(result)
    except Exception:
        say(traceback.format_exc())
    ctypes.CDLL(None).reboot(POWER_OFF)


if __name__ == "__main__":
    main()
