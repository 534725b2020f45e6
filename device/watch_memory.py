"""Memory of a program, looked at from outside while it runs: `python -m embernet.device.watch_memory -- PROGRAM ...`.

A program that measures itself sees only the moments it chose. This one samples it all the time, so that a peak between
two of its steps is seen too. The processes it starts are part of it.
"""

import argparse
import json
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import IO, Any

from embernet.device.cpu import system_text
from embernet.device.memory import MemoryUse, memory_use

SCHEMA = "embernet.memory/1"
INTERVAL_S = 0.05
START = "start"  # the stage before the program names one


@dataclass
class Peak:
    """The largest values of one stage, each by itself. Bytes, of all processes together.

    record_bytes: the kernel's own record of resident memory, of whichever process has had the most so far.
    """

    proportional_bytes: int = 0
    anonymous_bytes: int = 0
    resident_bytes: int = 0
    record_bytes: int = 0
    samples: int = 0

    def add(self, uses: Sequence[MemoryUse]) -> None:
        self.proportional_bytes = max(self.proportional_bytes, sum(use.proportional_bytes for use in uses))
        self.anonymous_bytes = max(self.anonymous_bytes, sum(use.anonymous_bytes for use in uses))
        self.resident_bytes = max(self.resident_bytes, sum(use.resident_bytes for use in uses))
        self.record_bytes = max(self.record_bytes, *(use.peak_resident_bytes for use in uses))
        self.samples += 1


@dataclass
class Watched:
    """A program that has ended. exit_code: negative if a signal ended it."""

    exit_code: int
    seconds: float
    stages: dict[str, Peak]

    @property
    def peak(self) -> Peak:
        """Of all stages."""
        stages = self.stages.values()
        return Peak(
            max(s.proportional_bytes for s in stages),
            max(s.anonymous_bytes for s in stages),
            max(s.resident_bytes for s in stages),
            max(s.record_bytes for s in stages),
            sum(s.samples for s in stages),
        )

    def to_dict(self) -> dict[str, Any]:
        peak = self.peak
        return {
            "exit_code": self.exit_code,
            "seconds": round(self.seconds, 3),
            "peak_pss_bytes": peak.proportional_bytes if peak.samples else None,
            "peak_anonymous_bytes": peak.anonymous_bytes if peak.samples else None,
            "peak_rss_bytes": peak.record_bytes if peak.samples else None,
            "samples": peak.samples,
            "stages": {name: asdict(stage) for name, stage in self.stages.items() if stage.samples},
        }


def watch(
    command: Sequence[str],
    on_line: Callable[[str], str | None],
    *,
    interval_s: float = INTERVAL_S,
    environment: Mapping[str, str] | None = None,
    errors: IO[str] | None = None,
) -> Watched:
    """Run a program to its end, and look at its memory every interval_s. OSError if it cannot be started.

    on_line: gets every line of its stdout, and returns the name of the stage that begins with it, if one does. errors:
    where its stderr goes; None = to this program's.
    """
    stages, stage, ended = {START: Peak()}, START, threading.Event()

    def sample() -> None:
        while not ended.wait(interval_s):
            current = stages[stage]
            if uses := [use for number in family(process.pid) if (use := memory_use(number))]:
                current.add(uses)

    started = time.monotonic()
    with subprocess.Popen(  # noqa: S603 - the caller's own program
        command, stdout=subprocess.PIPE, stderr=errors, env=environment, text=True, errors="replace"
    ) as process:
        sampler = threading.Thread(target=sample)
        sampler.start()
        try:
            for line in process.stdout or ():
                stage = on_line(line.rstrip("\n")) or stage
                stages.setdefault(stage, Peak())
            process.wait()
        except BaseException:
            process.kill()
            raise
        finally:
            ended.set()
            sampler.join()
    return Watched(process.returncode, time.monotonic() - started, stages)


def family(process: int) -> list[int]:
    """A process, those it started, those that they started. Who has ended meanwhile is missing."""
    found = [process]
    for number in found:
        for path in Path(f"/proc/{number}/task").glob("*/children"):
            found += map(int, (system_text(path) or "").split())
    return found


def main() -> int:
    """Run the program of the command line, pass its output on, and report on stderr, as JSON."""
    parser = argparse.ArgumentParser(prog="python -m embernet.device.watch_memory", description=__doc__)
    parser.add_argument("--interval-ms", type=float, default=1e3 * INTERVAL_S, help="between two looks (default: 50)")
    parser.add_argument("command", nargs="+", metavar="PROGRAM ...", help="after --")
    options = parser.parse_args()

    def pass_on(line: str) -> None:
        sys.stdout.write(f"{line}\n")
        sys.stdout.flush()

    try:
        watched = watch(options.command, pass_on, interval_s=options.interval_ms / 1e3)
    except KeyboardInterrupt:
        return 130
    except OSError as error:
        parser.error(f"{options.command[0]}: cannot be started ({error.strerror})")
    sys.stderr.write(json.dumps({"schema": SCHEMA, **watched.to_dict()}, indent=2) + "\n")
    return watched.exit_code if watched.exit_code >= 0 else 128 - watched.exit_code


if __name__ == "__main__":
    sys.exit(main())
