"""A sheet of paper to draw on, which remembers what lies where."""

from collections.abc import Sequence

import numpy as np
from PIL import Image, ImageDraw

from embernet.data.synth.drawing import Mark
from embernet.data.synth.palette import COLORS, Rgb, jitter
from embernet.data.synth.shapes import Points, Thing
from embernet.data.synth.typefaces import advance, load_typeface
from embernet.data.synth.words import WORDS

RESOLUTION = 256  # twice a finished drawing's, so that edges come out smooth
# What a character's mark says of its place among the characters of its text.
PLACES = ("first", "second", "third", "fourth", "fifth", "sixth", "seventh", "eighth")
# Of what is compared, and of what differs.
ROLES = ("smallest", "middle", "largest", "odd")
_PROBE_SIZE = 100


class Canvas:
    """A square sheet; every length and place is in its sides, y downwards."""

    def __init__(self, background: Rgb, rng: np.random.Generator) -> None:
        self.background = background
        self.image = Image.new("RGB", (RESOLUTION, RESOLUTION), background)
        self.marks: list[Mark] = []
        self._pen = ImageDraw.Draw(self.image)
        self._rng = rng

    def ink(self, color: str) -> Rgb:
        """One shade of a named color."""
        return jitter(COLORS[color], 14, self._rng)

    def mark(
        self,
        name: str,
        x: float,
        y: float,
        half_width: float,
        half_height: float,
        color: str = "",
        size: str = "",
        role: str = "",
    ) -> None:
        """Remember that a thing lies in the box around (x, y)."""
        self.marks.append(Mark(name, color, size, x, y, half_width, half_height, role=role))

    def polygon(self, points: Sequence[tuple[float, float]], fill: Rgb) -> None:
        self._pen.polygon([(x * RESOLUTION, y * RESOLUTION) for x, y in points], fill=fill)

    def rectangle(
        self, x: float, y: float, half_width: float, half_height: float, fill: Rgb, radius: float = 0
    ) -> None:
        """A rectangle around (x, y), with round corners of a radius."""
        box = self._box(x, y, half_width, half_height)
        if radius:
            self._pen.rounded_rectangle(box, radius * RESOLUTION, fill=fill)
        else:
            self._pen.rectangle(box, fill=fill)

    def ellipse(self, x: float, y: float, half_width: float, half_height: float, fill: Rgb) -> None:
        self._pen.ellipse(self._box(x, y, half_width, half_height), fill=fill)

    def arc(self, x: float, y: float, radius: float, start: float, end: float, fill: Rgb, width: float) -> None:
        """Part of a circle, clockwise from `start` to `end` degrees (0 = to the right)."""
        self._pen.arc(self._box(x, y, radius, radius), start, end, fill, round(width * RESOLUTION))

    def slice(self, x: float, y: float, radius: float, start: float, end: float, fill: Rgb) -> None:
        """A slice of a pie, clockwise from `start` to `end` degrees (0 = to the right)."""
        self._pen.pieslice(self._box(x, y, radius, radius), start, end, fill=fill)

    def line(self, points: Points, fill: Rgb, width: float) -> None:
        scaled = [(x * RESOLUTION, y * RESOLUTION) for x, y in points]
        self._pen.line(scaled, fill, max(1, round(width * RESOLUTION)), joint="curve")

    def arrow(self, start: tuple[float, float], end: tuple[float, float], fill: Rgb, width: float = 0.03) -> None:
        """An arrow whose point is at `end`; its head is three widths long and as wide."""
        (x1, y1), (x2, y2) = start, end
        length = float(np.hypot(x2 - x1, y2 - y1))
        ux, uy = (x2 - x1) / length, (y2 - y1) / length
        head = 3.2 * width
        x, y = x2 - head * ux, y2 - head * uy
        self.line([start, (x + 0.3 * head * ux, y + 0.3 * head * uy)], fill, width)
        half = 0.6 * head
        self.polygon([(x2, y2), (x - half * uy, y + half * ux), (x + half * uy, y - half * ux)], fill)

    def thing(self, thing: Thing) -> None:
        """A colored shape, with its mark."""
        self.polygon(thing.corners(self._rng), self.ink(thing.color))
        self.marks.append(thing.mark)

    def text(
        self,
        text: str,
        x: float,
        y: float,
        max_width: float,
        max_height: float,
        typeface: str,
        fill: Rgb,
        color: str = "",
        size: str = "",
        role: str = "",
    ) -> None:
        """Print a text around (x, y) as large as fits.

        Every character gets a mark with its name in lower case and, unless it is given, as its size which of the
        characters it is, as its role the word.
        """
        probe = load_typeface(typeface, _PROBE_SIZE)
        left, top, right, bottom = (edge / _PROBE_SIZE for edge in probe.getbbox(text))
        pixels = int(RESOLUTION * min(max_width / (right - left), max_height / (bottom - top)))
        em = pixels / RESOLUTION
        start, baseline = x - em * (left + right) / 2, y - em * (top + bottom) / 2
        place = (start * RESOLUTION, baseline * RESOLUTION)
        self._pen.text(place, text, fill=fill, font=load_typeface(typeface, pixels))
        places, role = iter(PLACES), role or (text.lower() if text.lower() in WORDS else "")
        for character in text:
            half_width, half_height = em * advance(typeface, character) / 2, em * (bottom - top) / 2
            if character != " ":
                name, its_size = character.lower(), size or next(places)
                self.mark(name, start + half_width, y, half_width, half_height, color, its_size, role)
            start += 2 * half_width

    @staticmethod
    def _box(x: float, y: float, half_width: float, half_height: float) -> tuple[float, float, float, float]:
        left, top, right, bottom = x - half_width, y - half_height, x + half_width, y + half_height
        return left * RESOLUTION, top * RESOLUTION, right * RESOLUTION, bottom * RESOLUTION
