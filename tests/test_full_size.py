"""The full-size model with random weights: `make full-size`. Prints what docs/numerics.md and the README state."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from embernet.runtime.native_library import FUNCTION_BODIES, supported_isas

pytestmark = pytest.mark.full_size

ROOT = Path(__file__).parent.parent
GB = 10**9

EXPORT = """
import json, sys, time
from pathlib import Path
from embernet.checkpoints import open_checkpoint
from embernet.device.memory import memory_use
from embernet.export.bundle import ExportOptions, export_bundle
anonymous = []
def watch(count):
    if count > 10**6:
        anonymous.append(memory_use().anonymous_bytes)
checkpoint = open_checkpoint(sys.argv[1])
started = time.perf_counter()
report = export_bundle(checkpoint, Path(sys.argv[2]), ExportOptions(), watch)
print(json.dumps({"seconds": time.perf_counter() - started, "peak_anonymous_bytes": max(anonymous)} | report.to_dict()))
"""

ANSWER = """
import json, sys, time
import numpy as np
from embernet.device.memory import memory_use
from embernet.device.plan import PROCESS_BYTES
from embernet.families import get_family
from embernet.runtime import load
model = load(sys.argv[1])
pixels = np.random.default_rng(0).uniform(-1, 1, (1, 3, 224, 224)).astype(np.float32)
started = time.perf_counter()
ids = model.generate_ids(list(range(1, 21)), pixels, max_new_tokens=4)
use = memory_use()
need = PROCESS_BYTES + get_family("embernet").part("shape")(model.bundle).memory().anonymous(88, 84)
values = {"load_ms": model.load_ms, "answer_seconds": time.perf_counter() - started, "ids": ids}
print(json.dumps(values | {"estimated_anonymous_bytes": need} | vars(use)))
"""


def run(code: str, *arguments: Path, **variables: str) -> dict:
    command = [sys.executable, "-c", code, *map(str, arguments)]
    result = subprocess.run(command, check=True, cwd=ROOT, stdout=subprocess.PIPE, env=os.environ | variables)
    values = json.loads(result.stdout.splitlines()[-1])
    sys.stdout.write(json.dumps(values, indent=2) + "\n")
    return values


def test_full_size_from_checkpoint_to_answer(tmp_path):
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-m", "embernet", "init", "embernet", "-o", tmp_path / "full", "--json"]
    output = subprocess.run(command, check=True, env=environment, stdout=subprocess.PIPE).stdout
    assert json.loads(output)["parameters"]["total"] == 840_804_992

    report = run(EXPORT, tmp_path / "full", tmp_path / "full.ember")
    assert report["bytes"]["total"] <= 310e6
    assert report["peak_anonymous_bytes"] < 2 * GB
    assert report["bits_per_ternary_weight"] == 2.0
    assert report["parameters"]["ternary"] == 713_097_216

    answers = [run(ANSWER, tmp_path / "full.ember", EMBERNET_ISA=isa) for isa in (FUNCTION_BODIES, *supported_isas())]
    assert all(len(answer["ids"]) == 4 for answer in answers)
    # Random weights amplify the last bit of an exp(); the kernels have none of their own to differ in.
    assert all(answer["ids"] == answers[-1]["ids"] for answer in answers[1:])
    assert all(answer["peak_resident_bytes"] < 6 * GB for answer in answers)
    cache_bytes = 16 * 2 * (64 + 20 + 4) * 6 * 64 * 4  # layers, keys and values, positions, heads, head_dim, float32
    for answer in answers[1:]:
        assert answer["anonymous_bytes"] <= 60e6 + cache_bytes
        assert answer["estimated_anonymous_bytes"] == pytest.approx(answer["anonymous_bytes"], rel=0.25)
        assert answer["peak_resident_bytes"] < 300e6
