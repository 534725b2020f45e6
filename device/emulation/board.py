"""The emulated board: 448 MB, four cores and systemd, where the wheel is installed as a user would and put to work.

It shows that things run and what memory they need. Its times are the emulator's and mean nothing.
"""

import json
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from embernet import __version__
from embernet.device.emulation import debian, icount, machine
from embernet.device.emulation.board_guest import INSTALLED
from embernet.device.emulation.page import Tables
from embernet.errors import EmbernetError, InputError
from embernet.runtime import load
from embernet.runtime.bundle import file_sha256, open_bundle

SCHEMA = "embernet.emulated-board/1"
KEPT = debian.ROOT / "benchmarks" / "emulated_board.json"
TABLES = Tables(debian.ROOT / "docs" / "emulated-board.md", "python -m embernet.device.emulation board --write")
WHEEL = debian.ROOT / "dist" / f"embernet-{__version__}-py3-none-manylinux_2_28_aarch64.whl"
# What Linux has of a Raspberry Pi Zero 2 W's 512 MB: the rest belongs to its graphics.
MEMORY_MB, CORES = 448, 4
SYSTEMD = "realinit=/lib/systemd/systemd systemd.wants=job.service systemd.firstboot=off systemd.getty_auto=off"
MB = 1e6
NEW_TOKENS = 20


@dataclass(frozen=True)
class Step:
    """A command in the folder of the job's files. Limits of its memory are in MB; None = any."""

    name: str
    command: tuple[str, ...]
    most_pss: int | None = None
    most_anonymous: int | None = None

    def to_dict(self) -> dict[str, Any]:
        return {"name": self.name, "command": self.command}


CAPTION, FULL_SIZE = "caption a folder", "full-size answer"
# What the wheel depends on is in the system already: pip would take too long to install it all in the emulator.
ENVIRONMENT_STEP = Step("make an environment", ("python3", "-m", "venv", "--system-site-packages", INSTALLED))
STEPS = (
    Step("doctor", ("embernet", "doctor", "--json")),
    Step("bench", ("embernet", "bench", "--json", "-r", "2", "-n", "8")),
    Step(CAPTION, ("embernet", "caption", "examples", "--jsonl"), most_pss=80),
    # A camera in software: the kernel's own, which a real board has as well.
    Step("camera driver", ("modprobe", "vivid", "n_devs=1", "node_types=0x1")),
    Step("caption a camera", ("embernet", "caption", "--camera", "/dev/video0", "--count", "2", "--json")),
)
FULL_SIZE_STEP = Step(
    FULL_SIZE,
    (
        *("python", "-m", f"{machine.GUEST}.staged_answer", "full.ember", f"examples/{icount.IMAGE.name}"),
        *(",".join(map(str, icount.FULL_SIZE_IDS)), str(NEW_TOKENS)),
    ),
    most_pss=300,
    most_anonymous=80,
)


def run(folder: Path, wheel: Path, full_size: bool) -> dict[str, Any]:
    """Boot the board with the wheel installed, run the steps, and return what they showed.

    EmbernetError if a step fails or answers otherwise than the model does on this machine.
    """
    if not wheel.is_file():
        raise InputError(f"{wheel}: no such file", hint="make wheels")
    bundles = {"spark": open_bundle("spark")}
    if full_size:
        bundles["full"] = open_bundle(icount.make_full_size(folder)[0])
    install = Step("install the wheel", ("pip", "install", "--no-index", f"./{wheel.name}"))
    steps = (ENVIRONMENT_STEP, install, *STEPS, *((FULL_SIZE_STEP,) if full_size else ()))
    files = {"examples": icount.IMAGE.parent, wheel.name: wheel}
    if full_size:
        files["full.ember"] = bundles["full"].path
    system, done, messages = _boot(folder, steps, files)
    outputs = {step["name"]: step.pop("output") for step in done}
    expected = _answers_here(bundles["full"].path if full_size else None)
    answers = {CAPTION: [json.loads(line)["text"] for line in outputs[CAPTION]]}
    if full_size:
        answers[FULL_SIZE] = json.loads(outputs[FULL_SIZE][-1])
    for name, found in answers.items():
        if found != expected[name]:
            raise EmbernetError(f"{name}: the board answers otherwise (found {found}, expected {expected[name]})")
    bench = json.loads("\n".join(outputs["bench"]))
    return {
        "schema": SCHEMA,
        "emulated": True,
        "test_time": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "versions": icount.versions() | {"embernet": __version__},
        "wheel": {"name": wheel.name, "sha256": file_sha256(wheel)},
        "models": {
            name: {"sha256": bundle.sha256(), "parameters": bundle.manifest.parameters["total"]}
            for name, bundle in bundles.items()
        },
        "memory_mb": MEMORY_MB,
        **system,
        "kernel_complaints": messages,
        "kernels": bench["kernel"],
        "answers": answers,
        "steps": done,
    }


def complaints(result: Mapping[str, Any]) -> list[str]:
    """One sentence for everything that is not as promised: memory, swap, programs that the kernel ended."""
    found = []
    if result["swap_bytes"]:
        found.append(f"the board has swap (found {result['swap_bytes']} bytes, expected none)")
    found += [f"the kernel says: {line}" for line in result["kernel_complaints"]]
    done = {step["name"]: step for step in result["steps"]}
    for step in (*STEPS, FULL_SIZE_STEP):
        if step.name not in done:
            continue
        for what, key, most in (
            ("PSS", "peak_pss_bytes", step.most_pss),
            ("anonymous memory", "peak_anonymous_bytes", step.most_anonymous),
        ):
            size = done[step.name][key]
            if most is not None and (size is None or size > most * MB):
                found.append(f"{step.name}: too much {what} (found {_megabytes(size)} MB, expected up to {most})")
    return found


def keep(result: Mapping[str, Any]) -> None:
    """Keep the result, and write the page that shows it."""
    KEPT.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")
    TABLES.write(tables(result))


def tables(result: Mapping[str, Any]) -> str:
    """The result as the tables of docs/emulated-board.md."""
    available, total = (result[f"memory_{name}_bytes"] / MB for name in ("available", "total"))
    lines = [
        f"{result['test_time'][:10]}, embernet {result['versions']['embernet']}, {result['system']}, Linux "
        f"{result['kernel']}, {result['cores']} cores, kernels: {result['kernels']}. Of {total:.0f} MB of memory "
        f"{available:.0f} MB are available before the first step; swap: {result['swap_bytes'] / MB:.0f} MB.",
        "",
        "| step | stage | peak PSS, MB | peak anonymous, MB | peak resident, MB |",
        "|---|---|---|---|---|",
    ]
    for step in result["steps"]:
        lines.append(_row(step["name"], "all", *(step[f"peak_{key}_bytes"] for key in ("pss", "anonymous", "rss"))))
        if len(step["stages"]) > 1:
            keys = ("proportional_bytes", "anonymous_bytes", "resident_bytes")
            lines += [_row("", name, *(stage[key] for key in keys)) for name, stage in step["stages"].items()]
    return "\n".join([*lines, ""])


def _row(step: str, stage: str, *sizes: int | None) -> str:
    return f"| {step} | {stage} | {' | '.join(map(_megabytes, sizes))} |"


def _megabytes(size: int | None) -> str:
    """Of a program that ended before it was looked at, nothing is known."""
    return "unknown" if size is None else f"{size / MB:.1f}"


def _boot(
    folder: Path, steps: Sequence[Step], files: Mapping[str, Path]
) -> tuple[dict[str, Any], list[Any], list[str]]:
    """Run steps on the board -> the system before them, a result of each, what the kernel complained about.

    EmbernetError if one of them fails.
    """
    work = {f"work/{name}": path for name, path in files.items()}
    disk = machine.make_system(folder)
    job = machine.make_job(folder, [step.to_dict() for step in steps], work)
    setup = machine.Setup(MEMORY_MB, SYSTEMD, cores=CORES)
    system, *done, messages = machine.boot(folder, [disk, job], setup, expected=len(steps) + 2)
    for step in done:
        if step["exit_code"] or step["oom_kills"]:
            killed = ", which had no memory left" if step["oom_kills"] else ""
            raise EmbernetError(f"{step['name']}: failed on the board{killed} (exit code {step['exit_code']})")
    return system, done, messages


def _answers_here(full_size: Path | None) -> dict[str, Any]:
    """What the steps answer on this machine, whose kernels are others."""
    spark = load("spark", threads=1)
    answers: dict[str, Any] = {CAPTION: [spark.caption(path).text for path in icount.EXAMPLES]}
    if full_size is not None:
        module, _, image, *rest = FULL_SIZE_STEP.command[2:]
        said = debian.call(sys.executable, "-m", module, full_size, debian.ROOT / image, *rest)
        answers[FULL_SIZE] = json.loads(said.splitlines()[-1])
    return answers
