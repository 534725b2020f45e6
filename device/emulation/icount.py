"""Instruction counts per stage of the models that embernet is measured with, and the file that keeps them."""

import json
import platform
import shutil
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from embernet.device.boards import CORES, PI_ZERO_2_W
from embernet.device.dynamic_int8 import quantize_vision
from embernet.device.emulation import debian, guest, machine
from embernet.device.emulation.page import Tables
from embernet.device.estimate import estimate_range
from embernet.errors import EmbernetError
from embernet.runtime import load
from embernet.runtime.bundle import WEIGHTS_FILE, Bundle, file_sha256, open_bundle
from embernet.runtime.native_library import FUNCTION_BODIES, supported_isas

SCHEMA = "embernet.a53-instructions/1"
KEPT = debian.ROOT / "benchmarks" / "a53_instructions.json"
TABLES = Tables(debian.ROOT / "docs" / "performance-a53.md", "python -m embernet.device.emulation --write")
EXAMPLES = sorted((debian.ROOT / "examples").glob("*.png"))
IMAGE = debian.ROOT / "examples" / "scene.png"
MEMORY_MB = 2048  # the page cache holds every weight: only instructions are counted here
GUEST_ISAS = ("neon", "portable", FUNCTION_BODIES)
LIMIT = 1.03  # of a kept count
FULL_SIZE_IDS = list(range(1, 21))  # with 64 image positions a prefill of 84
LABEL = "estimated, not measured on hardware"


def count_spark(folder: Path) -> dict[str, Any]:
    """Stages of the built-in model, whose tokens every engine here and in the machine must agree on."""
    model = load("spark", threads=1)
    bundle, ids = model.bundle, model.encode_first_turn(model.prompt("caption")).ids
    images = [str(path) for path in EXAMPLES]
    expected = guest.tokens(str(bundle.path), images, ids, 8, FUNCTION_BODIES)
    answers = {isa: guest.tokens(str(bundle.path), images, ids, 8, isa) for isa in supported_isas()}
    about: dict[str, Any] = {"bundle": "spark.ember", "input_ids": ids}
    job: list[dict[str, Any]] = [
        {"step": "tokens", **about, "images": [path.name for path in EXAMPLES], "new_tokens": 8, "isa": isa}
        for isa in GUEST_ISAS
    ]
    job.append({"step": "stages", **about, "image": IMAGE.name, "new_tokens": 8, "repeats": 3})
    files = {path.name: path for path in EXAMPLES} | {"spark.ember": bundle.path}
    *emulated, counted = machine.run(job, files, folder, MEMORY_MB)
    answers |= {f"{isa} on {debian.CPU}": found for isa, found in zip(GUEST_ISAS, emulated, strict=True)}
    for engine, found in answers.items():
        if found != expected:
            raise EmbernetError(f"spark: {engine} gives other tokens (found {found}, expected {expected})")
    return _entry(bundle, counted) | {"same_tokens": [f"{FUNCTION_BODIES} here", *answers]}


def count_full_size(folder: Path) -> dict[str, Any]:
    """Stages of the full-size model with random weights, and its vision tower by ONNX Runtime's dynamic int8."""
    path, other = make_full_size(folder)
    about: dict[str, Any] = {"bundle": path.name, "image": IMAGE.name}
    job = [
        {"step": "stages", **about, "input_ids": FULL_SIZE_IDS, "new_tokens": 4, "repeats": 1},
        {"step": "vision_graph", **about, "graph": f"{other.name}/vision.onnx", "repeats": 1},
    ]
    files = {path.name: path, other.name: other, IMAGE.name: IMAGE}
    counted, vision = machine.run(job, files, folder, MEMORY_MB)
    return _entry(open_bundle(path), counted) | {"onnxruntime_int8_vision_millions": round(vision, 3)}


def count_operators(folder: Path, full_size: bool) -> dict[str, list[tuple[str, int, float]]]:
    """Where the instructions of one model go, per stage. The profiler adds its own to what lies between operators."""
    path = make_full_size(folder)[0] if full_size else open_bundle("spark").path
    step = {"step": "operators", "bundle": path.name, "image": IMAGE.name}
    job = [step | {"input_ids": FULL_SIZE_IDS, "new_ids": [20, 30, 40]}]
    (found,) = machine.run(job, {path.name: path, IMAGE.name: IMAGE}, folder, MEMORY_MB)
    return found


def make_full_size(folder: Path) -> tuple[Path, Path]:
    """The full-size bundle, and a folder with its vision graph as ONNX Runtime quantises it. Made once."""
    bundle, other = folder / "full.ember", folder / "full-vision-onnxruntime"
    if not (other / "vision.onnx").is_file():
        checkpoint, plain = folder / "full-checkpoint", folder / "full-float32.ember"
        _embernet("init", "embernet", "-o", checkpoint)
        _embernet("export", checkpoint, "-o", bundle, "--force")
        _embernet("export", checkpoint, "-o", plain, "--force", "--vision", "float32")
        other.mkdir(exist_ok=True)
        quantize_vision(plain, other / "vision.onnx", use_external_data_format=True)
        for made in (checkpoint, plain):
            shutil.rmtree(made)
    return bundle, other


def _embernet(*arguments: str | Path) -> None:
    debian.call(sys.executable, "-m", "embernet", *arguments, "-q")


def _entry(bundle: Bundle, counted: dict[str, Any]) -> dict[str, Any]:
    millions = {stage: round(count, 3) for stage, count in counted["millions"].items()}
    return {
        "weights_sha256": file_sha256(bundle.path / WEIGHTS_FILE),
        "positions": counted["positions"],
        "ids": counted["ids"],
        "millions": millions,
        "megabytes": {stage: round(size / 1e6, 3) for stage, size in weight_bytes(bundle).items()},
    }


def weight_bytes(bundle: Bundle) -> dict[str, int]:
    """Bytes of weights that each stage reads at least once; a prefill is taken to need every expert."""
    import onnx

    def size(graph: str) -> int:
        model = onnx.load(bundle.path / graph, load_external_data=False)
        entries = [{e.key: e.value for e in tensor.external_data} for tensor in model.graph.initializer]
        return sum(int(entry.get("length", 0)) for entry in entries)

    decode = load(bundle.path).decode_weight_bytes
    return {"preprocess": 0, "vision": size("vision.onnx"), "prefill": size("decoder.onnx"), "decode": decode}


def versions() -> dict[str, str]:
    """What the counts depend on, besides this tree."""
    qemu, compiler = (
        debian.call(name, "--version").splitlines()[0] for name in ("qemu-system-aarch64", machine.COMPILER)
    )
    pinned = dict(requirement.split("==") for requirement in debian.REQUIREMENTS)
    return {"qemu": qemu, "compiler": compiler, "python": debian.PYTHON, **pinned, "host": platform.machine()}


def regressions(kept: Mapping[str, Any], found: Mapping[str, Any]) -> list[str]:
    """One sentence for every stage of `found` models that needs more than `LIMIT` times the kept instructions."""
    worse = []
    for name, entry in found.items():
        if name not in kept:
            worse.append(f"{name}: no counts are kept to compare with (add --write)")
            continue
        for stage, count in entry["millions"].items():
            before = kept[name]["millions"][stage]
            if count > before * LIMIT:
                worse.append(
                    f"{name}: {stage} has {count / before - 1:.1%} more instructions ({count} M, was {before} M)"
                )
    return worse


def keep(found: Mapping[str, Any]) -> None:
    """Keep the counts of these models, and write the page that shows them."""
    before = json.loads(KEPT.read_text())["models"] if KEPT.is_file() else {}
    values = {"schema": SCHEMA, "versions": versions(), "models": {**before, **found}}
    KEPT.parent.mkdir(exist_ok=True)
    KEPT.write_text(json.dumps(values, indent=2) + "\n", encoding="utf-8")
    TABLES.write(tables(values))


def tables(kept: Mapping[str, Any]) -> str:
    """The kept counts and what they would mean on a board, as the tables of docs/performance-a53.md."""
    lines = []
    heads = ("stage", "million instructions", "MB of weights", "compute, ms", "memory, ms", "time, ms (range)")
    for name, entry in kept["models"].items():
        threads = 1 if name == "spark" else CORES
        about = f"prefill of {entry['positions']} positions; milliseconds are {LABEL}, threads: {threads}"
        lines += [f"**{name}**: {about}", "", f"| {' | '.join(heads)} |", "|---" * len(heads) + "|"]
        for stage, millions in entry["millions"].items():
            megabytes, used = entry["megabytes"][stage], 1 if stage == "preprocess" else threads
            time = estimate_range(millions, megabytes, used, PI_ZERO_2_W)
            likely = time.central
            lines.append(
                f"| {stage} | {millions:,.1f} | {megabytes:.1f} | {_ms(likely.compute_ms)} | {_ms(likely.memory_ms)} "
                f"| {_ms(likely.ms)} ({_ms(time.fast.ms)} to {_ms(time.slow.ms)}) |"
            )
        lines.append("")
    return "\n".join(lines)


def _ms(value: float) -> str:
    return f"{value:,.0f}" if value >= 10 else f"{value:.1f}"
