"""Twelve symbols of machines, maps and screens."""

from collections.abc import Callable
from dataclasses import dataclass

from embernet.data.synth.canvas import Canvas
from embernet.data.synth.palette import Rgb
from embernet.data.synth.shapes import Points

# What paints a symbol of a radius around (x, y), in an ink on a background.
_Painter = Callable[[Canvas, float, float, float, Rgb, Rgb], None]


@dataclass(frozen=True)
class Symbol:
    name: str
    meaning: str
    _paint: _Painter

    def paint(self, canvas: Canvas, x: float, y: float, radius: float, color: str) -> None:
        """Draw it around (x, y) in a color."""
        canvas.mark(self.name, x, y, radius, radius, color)
        self._paint(canvas, x, y, radius, canvas.ink(color), canvas.background)


def _outline(*points: tuple[float, float]) -> _Painter:
    def paint(canvas: Canvas, x: float, y: float, r: float, ink: Rgb, _: Rgb) -> None:
        canvas.polygon([(x + r * px, y + r * py) for px, py in points], ink)

    return paint


def _stroke(width: float, *points: tuple[float, float]) -> _Painter:
    def paint(canvas: Canvas, x: float, y: float, r: float, ink: Rgb, _: Rgb) -> None:
        canvas.line(_placed(points, x, y, r), ink, width * r)

    return paint


def _placed(points: tuple[tuple[float, float], ...], x: float, y: float, r: float) -> Points:
    return [(x + r * px, y + r * py) for px, py in points]


def _pause(canvas: Canvas, x: float, y: float, r: float, ink: Rgb, _: Rgb) -> None:
    for side in (-0.45, 0.45):
        canvas.rectangle(x + side * r, y, 0.25 * r, 0.85 * r, ink)


def _power(canvas: Canvas, x: float, y: float, r: float, ink: Rgb, _: Rgb) -> None:
    canvas.arc(x, y + 0.1 * r, 0.85 * r, -50, 230, ink, 0.24 * r)
    canvas.line([(x, y - 0.95 * r), (x, y)], ink, 0.24 * r)


def _wireless(canvas: Canvas, x: float, y: float, r: float, ink: Rgb, _: Rgb) -> None:
    bottom = y + 0.75 * r
    for radius in (1.5, 1.05, 0.6):
        canvas.arc(x, bottom, radius * r, 222, 318, ink, 0.23 * r)
    canvas.ellipse(x, bottom - 0.05 * r, 0.17 * r, 0.17 * r, ink)


def _battery(canvas: Canvas, x: float, y: float, r: float, ink: Rgb, paper: Rgb) -> None:
    canvas.rectangle(x - 0.08 * r, y, 0.9 * r, 0.5 * r, ink, 0.08 * r)
    canvas.rectangle(x - 0.08 * r, y, 0.78 * r, 0.38 * r, paper)
    canvas.rectangle(x + 0.9 * r, y, 0.08 * r, 0.22 * r, ink)
    for i in range(3):
        canvas.rectangle(x + (-0.58 + 0.5 * i) * r, y, 0.18 * r, 0.28 * r, ink)


def _first_aid(canvas: Canvas, x: float, y: float, r: float, ink: Rgb, paper: Rgb) -> None:
    """A case with a handle and a cross."""
    canvas.rectangle(x, y - 0.6 * r, 0.4 * r, 0.3 * r, ink, 0.1 * r)
    canvas.rectangle(x, y - 0.55 * r, 0.26 * r, 0.2 * r, paper)
    canvas.rectangle(x, y + 0.2 * r, 0.98 * r, 0.7 * r, ink, 0.14 * r)
    canvas.rectangle(x, y + 0.2 * r, 0.13 * r, 0.42 * r, paper)
    canvas.rectangle(x, y + 0.2 * r, 0.42 * r, 0.13 * r, paper)


def _radiation(canvas: Canvas, x: float, y: float, r: float, ink: Rgb, paper: Rgb) -> None:
    for start in (0, 120, 240):
        canvas.slice(x, y, r, start, start + 60, ink)
    canvas.ellipse(x, y, 0.3 * r, 0.3 * r, paper)
    canvas.ellipse(x, y, 0.19 * r, 0.19 * r, ink)


def _note(canvas: Canvas, x: float, y: float, r: float, ink: Rgb, _: Rgb) -> None:
    for side in (-0.55, 0.5):
        canvas.ellipse(x + side * r, y + 0.62 * r, 0.3 * r, 0.24 * r, ink)
        canvas.rectangle(x + (side + 0.24) * r, y - 0.1 * r, 0.06 * r, 0.7 * r, ink)
    canvas.rectangle(x + 0.21 * r, y - 0.72 * r, 0.58 * r, 0.16 * r, ink)


def _house(canvas: Canvas, x: float, y: float, r: float, ink: Rgb, paper: Rgb) -> None:
    canvas.polygon([(x - r, y), (x, y - 0.95 * r), (x + r, y)], ink)
    canvas.rectangle(x, y + 0.4 * r, 0.7 * r, 0.48 * r, ink)
    canvas.rectangle(x, y + 0.57 * r, 0.2 * r, 0.31 * r, paper)


def _letter(canvas: Canvas, x: float, y: float, r: float, ink: Rgb, paper: Rgb) -> None:
    canvas.rectangle(x, y, r, 0.68 * r, ink, 0.06 * r)
    canvas.line([(x - 0.92 * r, y - 0.56 * r), (x, y + 0.15 * r), (x + 0.92 * r, y - 0.56 * r)], paper, 0.13 * r)


def _magnifier(canvas: Canvas, x: float, y: float, r: float, ink: Rgb, _: Rgb) -> None:
    canvas.line([(x + 0.1 * r, y + 0.1 * r), (x + 0.9 * r, y + 0.9 * r)], ink, 0.27 * r)
    canvas.ellipse(x - 0.22 * r, y - 0.22 * r, 0.7 * r, 0.7 * r, ink)
    canvas.ellipse(x - 0.22 * r, y - 0.22 * r, 0.47 * r, 0.47 * r, canvas.background)


SYMBOLS = (
    Symbol("play", "start", _outline((-0.65, -0.9), (0.95, 0), (-0.65, 0.9))),
    Symbol("pause", "wait", _pause),
    Symbol("power", "on or off", _power),
    Symbol("wireless", "a network without cables", _wireless),
    Symbol("battery", "energy", _battery),
    Symbol("first aid", "medical help", _first_aid),
    Symbol("radiation", "dangerous rays", _radiation),
    Symbol("check mark", "done", _stroke(0.28, (-0.85, 0.05), (-0.25, 0.65), (0.85, -0.65))),
    Symbol("note", "music", _note),
    Symbol("house", "home", _house),
    Symbol("letter", "mail", _letter),
    Symbol("magnifier", "search", _magnifier),
)
