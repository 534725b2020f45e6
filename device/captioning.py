"""Captions of a camera, a stream or a folder, one after the other, for as long as it lasts.

    source = WatchedFolder("in")
    for event in caption_frames(load("spark"), source, stop=Stop()):
        print(event)

Whatever fails is an event like any other, and the next frame is tried.
"""

import io
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from embernet.device.frames import Frame, FrameSource, Stop, now
from embernet.device.memory import memory_use
from embernet.errors import EmbernetError, InputError
from embernet.runtime.answer import Answer, EncodedImage
from embernet.runtime.image import LoadedImage, load_image
from embernet.runtime.model import GenerationOptions, Model
from embernet.runtime.result import result_object, with_image_time

SCHEMA, ERROR_SCHEMA = "embernet.caption/1", "embernet.error/1"
# Mean difference of the thumbnails' grey values, 0 = the same picture, 1 = black against white.
DEFAULT_THRESHOLD = 0.02
_THUMBNAIL = (32, 32)
_RETRY_FIRST_S, _RETRY_LAST_S = 1.0, 60.0
_MOST_DOUBLINGS = 30  # after 17 hours without a camera 2.0**failures would be no float


@dataclass(frozen=True)
class Caption:
    """What a frame shows. path: where the frame lies; None if it was not kept."""

    frame: Frame
    source: str
    image: EncodedImage
    answer: Answer
    path: Path | None

    def to_dict(self, model: Model) -> dict[str, Any]:
        """The record as JSON-ready values: the object that `embernet caption --json` prints, and what is new here."""
        values = result_object(model, self.image, self.answer)
        memory = memory_use()
        values["input"] |= _input_object(self.frame, self.path)
        values["memory"] = memory and {
            "rss_bytes": memory.resident_bytes,
            "pss_bytes": memory.proportional_bytes,
            "anonymous_bytes": memory.anonymous_bytes,
        }
        return {"schema": SCHEMA, "time": _written(self.frame.taken), "source": self.source} | values


@dataclass(frozen=True)
class Failure:
    """A source that gave no frame, or a frame that cannot be captioned.

    retry_s: after so many seconds the source is asked again; None for a file, which is not looked at again.
    """

    error: EmbernetError
    source: str
    frame: Frame | None
    retry_s: float | None

    def to_dict(self) -> dict[str, Any]:
        """The record as JSON-ready values."""
        return {
            "schema": ERROR_SCHEMA,
            "time": _written(self.frame.taken if self.frame else now()),
            "source": self.source,
            "input": self.frame and _input_object(self.frame, self.frame.path),
            "code": self.error.exit_code,
            "message": str(self.error),
            "hint": self.error.hint,
        }


@dataclass(frozen=True)
class Recovery:
    """A source works again after this number of failures in a row."""

    source: str
    failures: int


Event: TypeAlias = Caption | Failure | Recovery


def caption_frames(
    model: Model,
    source: FrameSource,
    *,
    stop: Stop,
    prompt: str | None = None,
    options: GenerationOptions | None = None,
    interval_s: float = 0.0,
    threshold: float | None = None,
) -> Iterator[Event]:
    """Caption what a source gives until it ends or `stop` is set; a caption under way is finished.

    prompt: what to ask, None = the model's own. interval_s: from one frame to the next; when a caption takes longer,
    the moments that passed meanwhile are left out. threshold: do not caption a frame that differs less from the last
    one that was captioned, see `DEFAULT_THRESHOLD`; None = caption all. After a failure the source is asked again
    after 1, 2, 4, ... 60 seconds; a file that fails is left behind. InputError for impossible options, and for a source
    that can never be used.
    """
    question = model.prompt("caption") if prompt is None else prompt
    generation = options or GenerationOptions()
    _require_possible(model, question, generation)
    last: NDArray[np.float32] | None = None
    failures = 0
    due = time.monotonic()
    while not stop.is_set():
        frame = None
        try:
            frame = source.next(stop)
            if frame is None:
                return
            event, last = _look(model, source.name, frame, question, generation, last, threshold)
        except EmbernetError as error:
            if frame is None and isinstance(error, InputError):
                raise
            is_file = frame is not None and frame.path is not None
            failures += not is_file
            doublings = min(failures - 1, _MOST_DOUBLINGS)
            retry_s = None if is_file else min(_RETRY_FIRST_S * 2.0**doublings, _RETRY_LAST_S)
            yield Failure(_without_traceback(error), source.name, frame, retry_s)
            stop.wait(retry_s or 0.0)
            continue
        if failures:
            yield Recovery(source.name, failures)
            failures = 0
        if event is not None:
            yield event
        if interval_s:
            due += interval_s * ((time.monotonic() - due) // interval_s + 1)
            stop.wait(due - time.monotonic())


def _without_traceback(error: EmbernetError) -> EmbernetError:
    """An error that does not keep the image alive, as the frames of its traceback would for as long as it is kept."""
    error.__context__ = error.__cause__ = None
    return error.with_traceback(None)


def _require_possible(model: Model, question: str, options: GenerationOptions) -> None:
    """Refuse what could never be answered before a frame takes its time."""
    limit, _ = model.read_options(options)
    prompt = model.encode_first_turn(question)
    model.new_context(len(prompt.ids), np.empty((1, model.num_image_tokens, 0), np.float32), room=limit)


def _look(
    model: Model,
    source: str,
    frame: Frame,
    question: str,
    options: GenerationOptions,
    last: NDArray[np.float32] | None,
    threshold: float | None,
) -> tuple[Caption | None, NDArray[np.float32] | None]:
    """Caption a frame, unless it is like the last one; and the thumbnail of what was captioned last."""
    started = time.perf_counter()
    loaded = _load(frame, source)
    load_ms = (time.perf_counter() - started) * 1e3
    thumbnail = None
    if threshold is not None:
        thumbnail = _thumbnail(loaded.rgb)
        if last is not None and np.abs(thumbnail - last).mean() < threshold:
            return None, last
    image = model.encode(loaded.rgb)
    preprocess_ms = load_ms + image.preprocess_ms
    image = replace(image, name=loaded.name, sha256=loaded.sha256, preprocess_ms=preprocess_ms)
    answer = with_image_time(model.ask(image, question, **options), image)
    return Caption(frame, source, image, answer, frame.path), thumbnail


def _load(frame: Frame, name: str) -> LoadedImage:
    """Decode a frame; error messages call it by its path, or by the name of its source."""
    image = frame.image
    if not isinstance(image, bytes):
        return load_image(image)
    file = io.BytesIO(image)
    file.name = name
    return load_image(file)


def _thumbnail(rgb: Image.Image) -> NDArray[np.float32]:
    """Grey values from 0 to 1, (32, 32): light and form of a scene without the noise of the camera."""
    small = rgb.resize(_THUMBNAIL, Image.Resampling.BOX).convert("L")
    return np.asarray(small, np.float32) * np.float32(1 / 255)


def _input_object(frame: Frame, path: Path | None) -> dict[str, Any]:
    return {"path": None if path is None else str(path), "modified_unix_ms": frame.modified_unix_ms}


def _written(moment: datetime) -> str:
    return moment.isoformat(timespec="milliseconds")
