"""What a library asks of a CPU: nothing beyond the baseline, but in files that are called after asking the CPU.

The assembler knows which instructions a CPU has: what is disassembled is assembled again, for the baseline only.
"""

import re
import subprocess
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

# The one list of the files whose kernels are called only where the CPU has what they are compiled for, each with the
# instruction that it is there for. Every other file must run everywhere.
DISPATCHED = {
    "kernels_avx2.cpp": "vpmaddubsw",
    "kernels_avx512_vnni.cpp": "vpdpbusd",
    "kernels_avx_vnni.cpp": "vpdpbusd",
    "kernels_neon_dot.cpp": "sdot",
}


@dataclass(frozen=True)
class Baseline:
    """The oldest CPU that a library is for."""

    name: str
    tools: str  # prefix of the names of the binutils
    march: str  # what the assembler calls it


BASELINES = {
    "aarch64": Baseline("ARMv8.0 without extensions", "aarch64-linux-gnu-", "armv8-a"),
    # XGETBV, which tells whether AVX may be used, runs only where CPUID tells that it is there; ENDBR64 (IBT) does
    # nothing on older CPUs.
    "x86_64": Baseline("the first x86-64", "", "generic64+xsave+ibt"),
}


@dataclass(frozen=True)
class Instruction:
    function: str
    text: str

    @property
    def mnemonic(self) -> str:
        return self.text.removeprefix("{vex}").split()[0]


def scan(build: Path, machine: str) -> list[str]:
    """A sentence for everything that is wrong with the library in a build folder of CMake."""
    baseline = BASELINES[machine]
    complaints: list[str] = []
    dispatched: Counter[str] = Counter()
    for path in sorted(build.glob("CMakeFiles/kernels.dir/**/*.o")) + sorted(
        build.glob("CMakeFiles/embernet_ops.dir/**/*.o")
    ):
        source = path.name.removesuffix(".o")
        beyond = beyond_baseline(path, baseline)
        if source in DISPATCHED:
            dispatched.update(i.mnemonic for i in beyond)
            complaints += wrong_in_dispatched(path, source, beyond, baseline)
        else:
            first = {i.function: i for i in reversed(beyond)}.values()
            complaints += [f"{source}: {i.function} uses '{i.text}', which {baseline.name} lacks" for i in first]
    if not dispatched:
        complaints.append(f"{build} has no kernels beyond {baseline.name}")
    # What the compiler adds to the library has no file of ours: none may be left when ours are taken away.
    linked = Counter(i.mnemonic for i in beyond_baseline(build / "libembernet_ops.so", baseline))
    if not complaints and (rest := linked - dispatched):
        complaints.append(f"the library uses {', '.join(rest)} outside of our files, which {baseline.name} lacks")
    return complaints


def wrong_in_dispatched(path: Path, source: str, beyond: list[Instruction], baseline: Baseline) -> Iterator[str]:
    if DISPATCHED[source] not in {i.mnemonic for i in beyond}:
        yield f"{source} has no {DISPATCHED[source]}, which it is there for"
    # Of a function that several files offer, the linker takes any, and so maybe this one.
    for line in _output([f"{baseline.tools}nm", "--demangle", "--defined-only", path]).splitlines():
        _, kind, name = line.split(maxsplit=2)
        if kind in "WVu":
            yield f"{source} shares {name} with files that must run everywhere: make it static"


def beyond_baseline(path: Path, baseline: Baseline) -> list[Instruction]:
    """The instructions of an object file or a library that the baseline lacks."""
    listing = _output([f"{baseline.tools}objdump", "-d", "--demangle", "--no-show-raw-insn", path])
    instructions = list(_instructions(listing))
    different = list(dict.fromkeys(i.text for i in instructions))
    refused = _refused(different, baseline)
    return [i for i in instructions if i.text in refused]


def _instructions(listing: str) -> Iterator[Instruction]:
    function = ""
    for line in listing.splitlines():
        if match := re.fullmatch(r"[0-9a-f]+ <(.*)>:", line):
            function = match[1]
        elif match := re.fullmatch(r" *[0-9a-f]+:\t(.+)", line):
            text = re.sub(r"^(data16 )+|\s+(#|//) .*", "", match[1])  # padding; a comment
            yield Instruction(function, re.sub(r"\b[0-9a-f]+ <.*>", ".", text).replace("\t", " ").strip())


def _refused(instructions: list[str], baseline: Baseline) -> set[str]:
    command = [f"{baseline.tools}as", f"-march={baseline.march}", "-o", "/dev/null", "-"]
    source = "".join(f"{text}\n" for text in instructions)
    errors = subprocess.run(command, input=source, stderr=subprocess.PIPE, text=True, check=False).stderr
    return {instructions[int(line) - 1] for line in re.findall(r":(\d+): Error:", errors)}


def _output(command: list[str | Path]) -> str:
    return subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout
