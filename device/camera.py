"""A camera that is asked by running a program, which writes one image to its standard output."""

import os
import shlex
import shutil
import signal
import subprocess
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import IO

from embernet.device.boards import STILL_PROGRAMS
from embernet.device.frames import Frame, Stop, now
from embernet.errors import EmbernetError, MissingExtraError, system_reason
from embernet.runtime.image import MAX_FILE_BYTES

WIDTH, HEIGHT = 640, 480
TIMEOUT_S = 30.0
_STILL_OPTIONS = ("-n", "--immediate", "--width", str(WIDTH), "--height", str(HEIGHT), "-e", "jpg", "-o", "-")
_CHUNK = 1 << 16
_NOTE_BYTES, _NOTE_LINES = 1024, 3  # of what a program says, the end is reported
_KILLED_WITHIN_S = 5.0
_LOOK_S = 0.01  # between two looks at whether a program that has written all has ended


def raspberry_pi_command() -> list[str]:
    """The command that takes a picture with the camera of a Raspberry Pi; MissingExtraError without such a program."""
    for program in STILL_PROGRAMS:
        if shutil.which(program):
            return [program, *_STILL_OPTIONS]
    raise MissingExtraError(
        f"{STILL_PROGRAMS[0]}: no such program", hint="sudo apt install rpicam-apps-lite, or name a --camera-command"
    )


def parse_command(text: str) -> list[str]:
    """The words of a command as a shell splits them; MissingExtraError if there is no such program."""
    try:
        words = shlex.split(text)
    except ValueError as error:
        raise EmbernetError(f"{text}: not a command ({error})") from None
    if not words:
        raise EmbernetError("the command of the camera is empty")
    if shutil.which(words[0]) is None:
        raise MissingExtraError(f"{words[0]}: no such program")
    return words


class CommandCamera:
    """Runs a program for every frame: it costs no memory in between, and what it leaves behind ends with it.

    A program that takes longer than timeout_s is killed with everything that it started.
    """

    def __init__(self, command: Sequence[str], timeout_s: float = TIMEOUT_S) -> None:
        self.name = Path(command[0]).name
        self._command = list(command)
        self._timeout_s = timeout_s

    def next(self, stop: Stop) -> Frame | None:
        deadline = time.monotonic() + self._timeout_s
        try:
            process = subprocess.Popen(  # noqa: S603
                self._command,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                bufsize=0,
                start_new_session=True,  # Ctrl-C is for us; and all that it starts can be killed with it
            )
        except OSError as error:
            raise EmbernetError(f"{self.name}: cannot be started ({system_reason(error)})") from None
        pipes = [pipe for pipe in (process.stdout, process.stderr) if pipe]
        try:
            image, said, is_whole = _read_outputs(pipes, stop, deadline)
            while is_whole and process.poll() is None and time.monotonic() < deadline and not stop.is_set():
                stop.wait(_LOOK_S)
        finally:
            has_ended = process.returncode is not None
            if not has_ended:  # nor was it waited for: its group is still its own
                os.killpg(process.pid, signal.SIGKILL)
                with suppress(subprocess.TimeoutExpired):  # a driver that hangs must not make us hang
                    process.wait(_KILLED_WITHIN_S)
            for pipe in pipes:
                pipe.close()
        if stop.is_set():
            return None
        if len(image) > MAX_FILE_BYTES:
            problem = f"wrote more than {MAX_FILE_BYTES >> 20} MB"
        elif not has_ended:
            problem = f"did not end within {self._timeout_s:g} s"
        elif process.returncode < 0:
            problem = f"was killed by signal {-process.returncode}"
        elif process.returncode > 0:
            problem = f"ended with {process.returncode}"
        elif not image:
            problem = "wrote no image"
        else:
            return Frame(image, now())
        raise EmbernetError(f"{self.name}: {problem}" + (f" ({said})" if said else ""))

    def close(self) -> None:
        """Nothing is open between two frames."""


def _read_outputs(pipes: Sequence[IO[bytes]], stop: Stop, deadline: float) -> tuple[bytes, str, bool]:
    """What a program writes, the end of what it says, and whether that is all: it may be stopped or too late."""
    image, said = bytearray(), bytearray()
    outputs = {pipe.fileno(): data for pipe, data in zip(pipes, (image, said), strict=True)}
    while outputs and len(image) <= MAX_FILE_BYTES:
        ready = stop.wait(deadline - time.monotonic(), *outputs)
        if not ready:
            break
        for file in ready:
            chunk = os.read(file, _CHUNK)
            outputs[file] += chunk
            if not chunk:
                del outputs[file]
        del said[:-_NOTE_BYTES]
    lines = [line.strip() for line in said.decode(errors="replace").splitlines()]
    return bytes(image), "; ".join([line for line in lines if line][-_NOTE_LINES:]), not outputs
