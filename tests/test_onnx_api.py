"""Our declarations of ONNX Runtime's C API against its own header, where the system has one."""

import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.native_builds import ROOT

OURS = ROOT / "runtime" / "native" / "onnx_api.h"
HEADER = "onnxruntime_c_api.h"  # Debian 13: apt install libonnxruntime-dev
PLACES = [
    f"{prefix}/include/{folder}"
    for prefix in ("/usr", "/usr/local")
    for folder in ("", "onnxruntime", "onnxruntime/core/session")
]


def include_folder() -> Path | None:
    places = [os.environ.get("EMBERNET_ORT_INCLUDE"), *PLACES]
    return next((Path(place) for place in places if place and (Path(place) / HEADER).is_file()), None)


def slots() -> dict[str, int]:
    """The entries of OrtApi that we use."""
    text = OURS.read_text()
    (body,) = re.findall(r"enum Slot : size_t \{(.*?)\}", text, re.DOTALL)
    return {name: int(index) for name, index in re.findall(r"(\w+) = (\d+),", body)}


def compile_layout(changes: dict[str, int], folder: Path) -> subprocess.CompletedProcess[str]:
    """Compile the comparison, with some positions changed in a copy of our header."""
    native = folder / "runtime" / "native"
    native.mkdir(parents=True)
    text = OURS.read_text()
    for name, index in changes.items():
        text = re.sub(rf"{name} = \d+,", f"{name} = {index},", text)
    (native / "onnx_api.h").write_text(text)
    source = folder / "tests" / "native" / "layout.cpp"
    source.parent.mkdir(parents=True)
    asserts = "".join(f"SLOT({name})\n" for name in slots())
    source.write_text((ROOT / "tests" / "native" / "onnx_api_layout.cpp").read_text() + asserts)
    command = ["g++", "-std=c++17", "-fsyntax-only", "-Wno-invalid-offsetof", "-I", include_folder(), source]
    return subprocess.run(command, stderr=subprocess.PIPE, text=True, check=False)


needs_header = pytest.mark.skipif(
    include_folder() is None or shutil.which("g++") is None,
    reason=f"needs g++ and {HEADER} in {PLACES[1]} or EMBERNET_ORT_INCLUDE",
)


@needs_header
def test_our_declarations_are_those_of_onnx_runtime(tmp_path):
    assert slots().keys() == set(re.findall(r"slot::(\w+)", OURS.read_text())) - {"Slot"}
    result = compile_layout({}, tmp_path)
    assert result.returncode == 0, result.stderr


@needs_header
def test_a_wrong_position_is_noticed(tmp_path):
    result = compile_layout({"GetDimensions": 63}, tmp_path)
    assert "GetDimensions has another position" in result.stderr
