"""The native operators inside ONNX Runtime, with every memory access and conversion checked."""

import os
import subprocess
import sys
from pathlib import Path

from tests.native_builds import ROOT, build


def test_the_operators_touch_only_what_is_theirs(tmp_path: Path) -> None:
    library = build("embernet_ops", "sanitized") / "libembernet_ops.so"
    runtimes = [
        subprocess.run(
            ["c++", f"-print-file-name={name}"], check=True, stdout=subprocess.PIPE, text=True
        ).stdout.strip()
        for name in ("libasan.so", "libubsan.so")
    ]
    environment = os.environ | {
        "LD_PRELOAD": ":".join(runtimes),
        "ASAN_OPTIONS": "detect_leaks=0",  # Python never frees everything
        "EMBERNET_TEST_LIBRARY": str(library),
    }
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-p", "no:xdist"]
    command += ["--basetemp", str(tmp_path / "inner"), "tests/test_operators.py", "-k", "not none"]
    result = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stdout[-3000:] + result.stderr[-3000:]
