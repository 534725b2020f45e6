"""A folder in which captioned frames are kept."""

import io
import os
from datetime import timezone
from pathlib import Path

from PIL import Image

from embernet.device.frames import Frame

_JPEG_QUALITY = 90


class FrameFolder:
    """Files named by the time (UTC) when a frame was taken, in alphabetical order; each is whole or not there."""

    def __init__(self, folder: str | os.PathLike[str]) -> None:
        self.folder = Path(folder).absolute()
        self.folder.mkdir(parents=True, exist_ok=True)

    def save(self, frame: Frame) -> Path:
        """Write a frame as it came, pixels as JPEG. OSError if that fails, and then nothing is left of it."""
        data, suffix = _encoded(frame)
        stamp = frame.taken.astimezone(timezone.utc).strftime("%Y%m%dT%H%M%S.%fZ")
        path = self.folder / f"{stamp}{suffix}"
        part = self.folder / f".{path.name}.part"
        try:
            with open(part, "wb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            part.replace(path)
        except OSError:
            part.unlink(missing_ok=True)
            raise
        return path


def _encoded(frame: Frame) -> tuple[bytes, str]:
    """The bytes of a file, and how its name ends."""
    if isinstance(frame.image, Path):
        return frame.image.read_bytes(), frame.image.suffix
    if isinstance(frame.image, bytes):
        with Image.open(io.BytesIO(frame.image)) as image:
            return frame.image, ".jpg" if image.format == "JPEG" else f".{(image.format or 'bin').lower()}"
    file = io.BytesIO()
    Image.fromarray(frame.image).save(file, "JPEG", quality=_JPEG_QUALITY)
    return file.getvalue(), ".jpg"
