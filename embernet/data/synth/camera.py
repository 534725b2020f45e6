"""From a clean drawing to what a camera might see: a print on a table, seen askew, in uneven light, with noise."""

import io
import math
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageFilter

from embernet.data.synth.canvas import RESOLUTION, Canvas
from embernet.data.synth.drawing import Mark
from embernet.data.synth.palette import Rgb

SIDE = 128  # pixels of a finished drawing
_RAMP = np.linspace(-1, 1, SIDE, dtype=np.float32)
# Drawing normal numbers takes longer than all else, so the noise of an image is a stretch of these.
_NOISE = np.random.default_rng(0).standard_normal(2**20, np.float32)


def photograph(canvas: Canvas, rng: np.random.Generator) -> tuple[Image.Image, tuple[Mark, ...]]:
    """The image of a canvas, SIDE pixels wide, and its marks where they are now; each defect is on some images only."""
    marks = tuple(canvas.marks)
    if rng.random() < 0.6:
        image, marks = _from_askew(canvas.image, marks, _table(canvas.background, rng), rng)
    else:
        image = canvas.image.reduce(RESOLUTION // SIDE)
    if rng.random() < 0.2:
        image = image.filter(ImageFilter.BoxBlur(float(rng.uniform(0.3, 1.0))))
    image = _light_and_noise(image, rng)
    if rng.random() < 0.2:
        file = io.BytesIO()
        image.save(file, "JPEG", quality=int(rng.integers(30, 90)))
        image = Image.open(file)
        image.load()
    return image, marks


def _table(sheet: Rgb, rng: np.random.Generator) -> Rgb:
    """The color around the sheet, half of the time the sheet's own."""
    if rng.random() < 0.5:
        return sheet
    r, g, b = rng.integers(0, 256, 3).tolist()
    return r, g, b


def _from_askew(
    image: Image.Image, marks: tuple[Mark, ...], surroundings: Rgb, rng: np.random.Generator
) -> tuple[Image.Image, tuple[Mark, ...]]:
    """Turned, sheared, squeezed, in perspective and a bit smaller; what has a mark stays in the image."""
    turn = math.radians(float(rng.uniform(-6, 6)))
    linear = np.array([[math.cos(turn), -math.sin(turn)], [math.sin(turn), math.cos(turn)]])
    linear = linear @ np.array([[1.0, rng.uniform(-0.08, 0.08)], [0.0, rng.uniform(0.92, 1.0)]]) * rng.uniform(0.86, 1)
    forward = np.eye(3)
    forward[:2, :2] = linear
    forward[2, :2] = rng.uniform(-0.14, 0.14, 2)
    forward = forward @ np.array([[1, 0, -0.5], [0, 1, -0.5], [0, 0, 1]])  # around the middle
    boxes = _transform(_corners(marks), forward)
    fit = min(1.0, 0.49 / float(np.abs(boxes).max(initial=0.1)))
    forward = np.diag([fit, fit, 1.0]) @ forward
    boxes = boxes * fit
    room = np.maximum(0.0, 0.49 - np.abs(boxes).max(axis=(0, 1), initial=0.1))
    dx, dy = np.minimum(room, 0.04) * rng.uniform(-1, 1, 2)
    forward = np.array([[1, 0, 0.5 + dx], [0, 1, 0.5 + dy], [0, 0, 1]]) @ forward
    boxes = boxes + np.array([0.5 + dx, 0.5 + dy])
    # PIL asks where in the source a pixel of the result comes from.
    backward = np.diag([RESOLUTION, RESOLUTION, 1]) @ np.linalg.inv(forward) @ np.diag([1 / SIDE, 1 / SIDE, 1])
    coefficients = (backward / backward[2, 2]).ravel()[:8].tolist()
    seen = image.transform(
        (SIDE, SIDE),
        Image.Transform.PERSPECTIVE,
        coefficients,
        Image.Resampling.BILINEAR,
        fillcolor=surroundings,
    )
    low, high = boxes.min(axis=1), boxes.max(axis=1)
    centers, halves = ((low + high) / 2).tolist(), ((high - low) / 2).tolist()
    moved = (
        replace(mark, x=x, y=y, half_width=half_width, half_height=half_height)
        for mark, (x, y), (half_width, half_height) in zip(marks, centers, halves, strict=True)
    )
    return seen, tuple(moved)


def _corners(marks: tuple[Mark, ...]) -> NDArray[np.float64]:
    """The corners of the marks' boxes (M, 4, 2)."""
    boxes = np.array([[(m.x, m.y), (m.half_width, m.half_height)] for m in marks]).reshape(-1, 2, 1, 2)
    return boxes[:, 0] + boxes[:, 1] * np.array([[-1, -1], [1, -1], [1, 1], [-1, 1]])


def _transform(points: NDArray[np.float64], matrix: NDArray[np.float64]) -> NDArray[np.float64]:
    """Points (..., 2) through a homography (3, 3)."""
    moved = points @ matrix[:, :2].T + matrix[:, 2]
    return moved[..., :2] / moved[..., 2:]


def _light_and_noise(image: Image.Image, rng: np.random.Generator) -> Image.Image:
    """Light from one side, the edge of a shadow, the tint of a lamp, noise of the sensor."""
    light: NDArray[np.float32] | None = None
    if rng.random() < 0.4:
        light = 1 + np.float32(rng.uniform(0.04, 0.2)) * _ramp(rng)
    if rng.random() < 0.15:
        edge, depth = rng.uniform(-0.5, 0.9), np.float32(rng.uniform(0.1, 0.4))
        shadow = 1 - depth * np.clip((_ramp(rng) - np.float32(edge)) / np.float32(rng.uniform(0.05, 0.5)), 0, 1)
        light = shadow if light is None else light * shadow
    tint = rng.uniform(0.85, 1.1, 3).astype(np.float32) if rng.random() < 0.3 else None
    noise = float(rng.uniform(2, 14)) if rng.random() < 0.4 else 0.0
    if light is None and tint is None and not noise:
        return image
    pixels = np.array(image, np.float32)
    if light is not None:
        pixels *= light[..., None]
    if tint is not None:
        pixels *= tint
    if noise:
        start = rng.integers(len(_NOISE) - pixels.size)
        pixels += np.float32(noise) * _NOISE[start : start + pixels.size].reshape(pixels.shape)
    return Image.fromarray(np.clip(pixels, 0, 255, out=pixels).astype(np.uint8))


def _ramp(rng: np.random.Generator) -> NDArray[np.float32]:
    """From about -1 to 1 across the image (SIDE, SIDE), in a random direction."""
    angle = float(rng.uniform(0, 2 * math.pi))
    ramp: NDArray[np.float32] = math.cos(angle) * _RAMP[None, :] + math.sin(angle) * _RAMP[:, None]
    return ramp
