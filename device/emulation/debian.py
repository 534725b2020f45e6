"""Files of an arm64 Debian with Python and the packages that embernet needs, unpacked on this machine.

Nothing of it runs while it is made, so no emulator is needed for that.
"""

import os
import shutil
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from embernet.errors import EmbernetError, MissingExtraError

ROOT = Path(__file__).parents[2]
CPU = "cortex-a53"
PROGRAMS = {"mmdebstrap": "mmdebstrap"}
SUITE, PYTHON = "bookworm", "3.11"
# Versions decide how many instructions a run has, so they are fixed.
REQUIREMENTS = ("numpy==2.4.6", "onnxruntime==1.31.1", "pillow==13.0.0", "tokenizers==0.23.3", "typer==0.28.0")
PLATFORMS = [f"manylinux_2_{minor}_aarch64" for minor in (28, 27, 17)]


def require_host(programs: Mapping[str, str]) -> None:
    """MissingExtraError that names the Debian package of every program that is missing; EmbernetError if not root."""
    missing = [package for program, package in programs.items() if shutil.which(program) is None]
    if missing:
        raise MissingExtraError(
            f"the emulation needs programs that are not installed ({', '.join(missing)})",
            hint=f"apt-get install --no-install-recommends {' '.join(missing)}",
        )
    if os.geteuid() != 0:
        raise EmbernetError("the emulation needs root: the files of its system belong to root")


def unpack(root: Path, packages: Sequence[str]) -> None:
    """Unpack Debian packages and what they depend on into a folder that is not there yet."""
    options = ["--mode=root", "--variant=extract", "--architectures=arm64", f"--include={','.join(packages)}"]
    call("mmdebstrap", "--quiet", *options, '--aptopt=APT::Install-Recommends "false"', SUITE, root, *_mirrors())


def install(folder: Path) -> None:
    """Put REQUIREMENTS into a folder, compiled to byte code if the Python here is the same."""
    pip("install", "--target", folder, *REQUIREMENTS)


def pip(command: str, *arguments: str | Path) -> None:
    """Have pip install or download wheels for the Python of these files."""
    platforms = [f"--platform={name}" for name in PLATFORMS]
    python = ["--only-binary=:all:", "--implementation", "cp", "--python-version", PYTHON]
    call(sys.executable, "-m", "pip", "--disable-pip-version-check", command, "-q", *python, *platforms, *arguments)


def copy_package(folder: Path) -> None:
    """Copy this tree's package, without native operators, to folder/embernet."""
    hidden = shutil.ignore_patterns("__pycache__", "native", "*.so")
    for source, target in (("embernet", "."), ("runtime", "runtime"), ("device", "device")):
        shutil.copytree(ROOT / source, folder / "embernet" / target, ignore=hidden, dirs_exist_ok=True)


def _mirrors() -> list[str]:
    """Where this machine itself gets Debian from; nothing (mmdebstrap's own choice) if it is no Debian."""
    command = ["apt-get", "indextargets", "--format", "$(REPO_URI)", "Label: Debian", "Identifier: Packages"]
    return sorted(set(call(*command).split()))[:1]


def call(*command: str | Path) -> str:
    """Run a program in the checkout, and return what it said; EmbernetError with the end of what went wrong."""
    result = subprocess.run(  # noqa: S603 - the commands are this module's own
        command, check=False, cwd=ROOT, capture_output=True, text=True
    )
    if result.returncode:
        said = (result.stderr or result.stdout).strip().splitlines()[-3:]
        raise EmbernetError(f"{command[0]} failed ({' / '.join(said)})")
    return result.stdout
