"""`embernet caption` of a camera, a stream or a folder that fills: goes on until it is told to end."""

import gc
import signal
import sys
from contextlib import ExitStack, closing
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from embernet.cli.answers import load_model, summary
from embernet.cli.output import note, print_error, print_json
from embernet.errors import EmbernetError, system_reason
from embernet.interruption import Interruption
from embernet.json_file import printable

if TYPE_CHECKING:
    from embernet.device.captioning import Caption, Event
    from embernet.device.frames import FrameSource, Stop
    from embernet.device.records import RecordFile
    from embernet.device.saving import FrameFolder
    from embernet.runtime import Model
    from embernet.runtime.model import GenerationOptions

_WRITE_AGAIN_S = 10.0


@dataclass(frozen=True)
class FrameRequest:
    """What to caption, and where it goes. The source is `watch`, stdin, `device`, or a command, in this order."""

    watch: Path | None
    mjpeg: bool
    device: str | None
    camera_command: str | None
    prompt: str | None
    interval_s: float
    count: int | None
    threshold: float | None
    output: Path | None
    save: Path | None
    fail_fast: bool
    json: bool
    quiet: bool
    verbose: int


def caption_until_told_to_end(
    request: FrameRequest, generation: "GenerationOptions", model: str | None, **load_options: Any
) -> None:
    """Caption frames until the source ends, `count` are done, or a signal comes; 130 after Ctrl-C."""
    from embernet.device.captioning import Caption, Failure, caption_frames
    from embernet.device.frames import Stop
    from embernet.device.records import RecordFile
    from embernet.device.saving import FrameFolder

    stop = Stop()
    with ExitStack() as stack:
        output = None if request.output is None else stack.enter_context(closing(RecordFile(request.output)))
        if output is not None and output.removed_bytes:
            note(f"{output.path}: removed a last line that was not whole ({output.removed_bytes} bytes)", request.quiet)
        folder = None if request.save is None else FrameFolder(request.save)
        source = stack.enter_context(closing(_open_source(request, output)))
        interruption = stack.enter_context(Interruption(stop.set))
        loaded = load_model(model, request.quiet, **load_options)
        gc.collect()
        gc.freeze()  # what stays for good need not be looked through after every image
        stack.callback(gc.unfreeze)
        note(f"captioning {source.name}; Ctrl-C ends it", request.quiet)
        results = _Results(request, loaded, output, folder)
        captions, failed_with = 0, 0
        for event in caption_frames(
            loaded,
            source,
            stop=stop,
            prompt=request.prompt,
            options=generation,
            interval_s=request.interval_s,
            threshold=request.threshold,
        ):
            results.take(event)
            gc.collect()  # what Python keeps for later use would grow for days
            if isinstance(event, Failure):
                failed_with = event.error.exit_code
                if request.fail_fast:
                    break
            captions += isinstance(event, Caption)
            if captions == request.count:
                break
            results.wait_for_room(stop)
        results.finish()
    if interruption.received == signal.SIGINT:
        raise typer.Exit(130)
    if failed_with and interruption.received is None and (request.fail_fast or not captions):
        raise typer.Exit(failed_with)


def _open_source(request: FrameRequest, output: "RecordFile | None") -> "FrameSource":
    if request.watch is not None:
        from embernet.device.watch import WatchedFolder, done_files

        return WatchedFolder(request.watch, None if output is None else done_files(request.watch, output.records()))
    if request.mjpeg:
        from embernet.device.mjpeg import MjpegStream

        return MjpegStream(sys.stdin.fileno(), "stdin")
    if request.device is not None:
        from embernet.device.v4l2 import V4l2Camera

        return V4l2Camera(request.device)
    from embernet.device.camera import CommandCamera, parse_command, raspberry_pi_command

    command = request.camera_command
    return CommandCamera(raspberry_pi_command() if command is None else parse_command(command))


class _Results:
    """Prints or records what happens. What cannot be written is said once, and once that it can be again."""

    def __init__(
        self, request: FrameRequest, model: "Model", output: "RecordFile | None", folder: "FrameFolder | None"
    ) -> None:
        self._request = request
        self._model = model
        self._output = output
        self._folder = folder
        self._unwritable: set[Path] = set()
        self._warnings: set[str] = set()

    def take(self, event: "Event") -> None:
        from embernet.device.captioning import Caption, Failure

        request = self._request
        if isinstance(event, Caption):
            self._take_caption(event)
        elif isinstance(event, Failure):
            if self._output is not None and event.frame is not None and event.frame.path is not None:
                self._append(event.to_dict())
            again = "" if event.retry_s is None or request.fail_fast else f"; trying again in {event.retry_s:g} s"
            print_error(f"{event.error}{again}", event.error.hint, event.error.exit_code, request.json)
        else:
            times = f"{event.failures} failure{'s' if event.failures > 1 else ''}"
            note(f"{event.source}: works again after {times}", request.quiet)

    def wait_for_room(self, stop: "Stop") -> None:
        """Rather than too many records that wait in memory, make no more."""
        while self._output is not None and self._output.is_full and not stop.is_set():
            stop.wait(_WRITE_AGAIN_S)
            self._say_whether_writable(self._output.path, self._output.flush())

    def finish(self) -> None:
        """EmbernetError if there are records that cannot be written."""
        if self._output is not None and (error := self._output.flush()):
            raise EmbernetError(
                f"{self._output.path}: {self._output.waiting} records could not be written ({system_reason(error)})"
            )

    def _take_caption(self, caption: "Caption") -> None:
        request, answer = self._request, caption.answer
        if self._folder is not None:
            try:
                caption = replace(caption, path=self._folder.save(caption.frame))
                self._say_whether_writable(self._folder.folder, None)
            except OSError as error:
                self._say_whether_writable(self._folder.folder, error)
        if self._output is not None:
            self._append(caption.to_dict(self._model))
        elif request.json:
            values = caption.to_dict(self._model)
            print_json(values.pop("schema"), values, pretty=False)
        else:
            path = caption.frame.path
            label = f"{path}:" if path else caption.frame.taken.isoformat(timespec="seconds")
            line = f"{label} {answer.text}".replace("\n", "\\n")  # a file's name may hold one
            typer.echo(printable(line))
        for warning in set(answer.warnings) - self._warnings:
            self._warnings.add(warning)
            note(warning, request.quiet)
        if request.verbose:
            note(summary(self._model, answer), request.quiet)

    def _append(self, record: dict[str, Any]) -> None:
        if self._output is not None:
            self._say_whether_writable(self._output.path, self._output.append(record))

    def _say_whether_writable(self, path: Path, error: OSError | None) -> None:
        if error is not None and path not in self._unwritable:
            self._unwritable.add(path)
            print_error(f"{path}: cannot be written for now ({system_reason(error)})", None, 1, self._request.json)
        elif error is None and path in self._unwritable:
            self._unwritable.remove(path)
            note(f"{path}: can be written again", self._request.quiet)
