"""From nothing to the first token: fresh processes, with the bundle on the disk and with the bundle in memory."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from typing import Any

from embernet.device.page_cache import drop_from_page_cache
from embernet.errors import EmbernetError, OutOfMemoryError
from embernet.runtime.bundle import MANIFEST_FILE, Bundle

# How many processes `measure_starts` starts at most.
STARTS = 2


def measure_starts(
    bundle: Bundle, progress: Callable[[int], object] = lambda _count: None, **options: Any
) -> dict[str, dict[str, Any] | None]:
    """A cold and a warm start, as JSON values: `fresh_process` has the keys and the options.

    Of a cold start the bundle's files have left the page cache; it is None where they stayed. The interpreter and the
    engine's libraries are in memory each time. progress is called with 1 after each.
    """
    files = [bundle.path / name for name in (MANIFEST_FILE, *bundle.manifest.files)]
    cold = fresh_start(bundle, **options) if drop_from_page_cache(files) else None
    progress(1)
    warm = fresh_start(bundle, **options)
    progress(1)
    return {"cold_start": cold, "warm_start": warm}


def fresh_start(bundle: Bundle, **options: Any) -> dict[str, Any]:
    """Start a process and let it come to its first token; what is wrong there is raised here."""
    # The clock is that of the machine, so the other process can go on with it.
    options = {"started_ns": time.perf_counter_ns(), "bundle": str(bundle.path), **options}
    command = [sys.executable, "-m", "embernet.device.fresh_process", json.dumps(options)]
    done = subprocess.run(  # noqa: S603
        command,
        capture_output=True,
        encoding="utf-8",
        errors="replace",
        check=False,
        env={**os.environ, "PYTHONSAFEPATH": "1"},  # nothing is imported from the folder this is started in
    )
    if done.returncode == -signal.SIGKILL:
        raise OutOfMemoryError(
            f"{bundle.manifest.name}: a fresh process was killed, most likely for want of memory",
            hint="the same without --cold-start",
        )
    if done.returncode != 0:
        reason = (done.stderr.strip().splitlines() or [f"exit code {done.returncode}"])[-1]
        for kind in EmbernetError.__subclasses__():
            if kind.exit_code == done.returncode:
                raise kind(reason)
        raise EmbernetError(f"{bundle.manifest.name}: a fresh process failed ({reason})")
    return dict(json.loads(done.stdout))
