"""Twelve road signs as most of the world knows them."""

from collections.abc import Callable
from dataclasses import dataclass

from embernet.data.synth.canvas import Canvas
from embernet.data.synth.shapes import on_circle

# What paints a sign of a radius around (x, y), with a typeface.
_Painter = Callable[[Canvas, float, float, float, str], None]


@dataclass(frozen=True)
class RoadSign:
    """color: its most prominent one."""

    name: str
    meaning: str
    color: str
    _paint: _Painter

    def paint(self, canvas: Canvas, x: float, y: float, radius: float, typeface: str) -> None:
        """Draw it around (x, y)."""
        canvas.mark(self.name, x, y, radius, radius, self.color)
        self._paint(canvas, x, y, radius, typeface)


def _polygon(canvas: Canvas, x: float, y: float, radius: float, color: str, corners: int, start: float) -> None:
    canvas.polygon([(x + radius * px, y + radius * py) for px, py in on_circle(corners, start)], canvas.ink(color))


def _disc(canvas: Canvas, x: float, y: float, radius: float, *colors: str) -> None:
    """Rings from outside inwards, each a fifth thinner than the one around it."""
    for i, color in enumerate(colors):
        r = radius * (1, 0.93, 0.72)[i]
        canvas.ellipse(x, y, r, r, canvas.ink(color))


def _stop(canvas: Canvas, x: float, y: float, radius: float, typeface: str) -> None:
    _polygon(canvas, x, y, 1.06 * radius, "white", 8, 22.5)
    _polygon(canvas, x, y, 0.98 * radius, "red", 8, 22.5)
    canvas.text("STOP", x, y, 1.55 * radius, 0.7 * radius, typeface, canvas.ink("white"), "white")


def _give_way(canvas: Canvas, x: float, y: float, radius: float, _: str) -> None:
    _polygon(canvas, x, y - 0.2 * radius, 1.15 * radius, "red", 3, 90)
    _polygon(canvas, x, y - 0.2 * radius, 0.7 * radius, "white", 3, 90)


def _danger(canvas: Canvas, x: float, y: float, radius: float, _: str) -> None:
    y += 0.2 * radius
    _polygon(canvas, x, y, 1.15 * radius, "red", 3, -90)
    _polygon(canvas, x, y, 0.72 * radius, "white", 3, -90)
    ink = canvas.ink("black")
    canvas.rectangle(x, y - 0.13 * radius, 0.075 * radius, 0.24 * radius, ink)
    canvas.ellipse(x, y + 0.24 * radius, 0.085 * radius, 0.085 * radius, ink)


def _no_entry(canvas: Canvas, x: float, y: float, radius: float, _: str) -> None:
    _disc(canvas, x, y, radius, "white", "red")
    canvas.rectangle(x, y, 0.66 * radius, 0.16 * radius, canvas.ink("white"))


def _limit(number: str) -> _Painter:
    def paint(canvas: Canvas, x: float, y: float, radius: float, typeface: str) -> None:
        _disc(canvas, x, y, radius, "white", "red", "white")
        canvas.text(number, x, y, 1.05 * radius, 0.7 * radius, typeface, canvas.ink("black"), "black")

    return paint


def _direction(dx: float, dy: float) -> _Painter:
    def paint(canvas: Canvas, x: float, y: float, radius: float, _: str) -> None:
        _disc(canvas, x, y, radius, "white", "blue")
        start, end = (x - 0.6 * dx * radius, y - 0.6 * dy * radius), (x + 0.7 * dx * radius, y + 0.7 * dy * radius)
        canvas.arrow(start, end, canvas.ink("white"), 0.24 * radius)

    return paint


def _priority(canvas: Canvas, x: float, y: float, radius: float, _: str) -> None:
    for scale, color in ((1.1, "black"), (1.06, "white"), (0.78, "yellow")):
        _polygon(canvas, x, y, scale * radius, color, 4, -90)


def _parking(canvas: Canvas, x: float, y: float, radius: float, typeface: str) -> None:
    canvas.rectangle(x, y, 0.92 * radius, 0.92 * radius, canvas.ink("white"), 0.12 * radius)
    canvas.rectangle(x, y, 0.85 * radius, 0.85 * radius, canvas.ink("blue"), 0.1 * radius)
    canvas.text("P", x, y, 1.2 * radius, 1.15 * radius, typeface, canvas.ink("white"), "white")


def _no_parking(canvas: Canvas, x: float, y: float, radius: float, _: str) -> None:
    _disc(canvas, x, y, radius, "white", "red", "blue")
    d = 0.58 * radius
    canvas.line([(x - d, y - d), (x + d, y + d)], canvas.ink("red"), 0.2 * radius)


ROAD_SIGNS = (
    RoadSign("stop", "stop", "red", _stop),
    RoadSign("give way", "let others go first", "red", _give_way),
    RoadSign("danger", "be careful", "red", _danger),
    RoadSign("no entry", "do not enter", "red", _no_entry),
    RoadSign("speed limit 30", "drive at most 30", "red", _limit("30")),
    RoadSign("speed limit 50", "drive at most 50", "red", _limit("50")),
    RoadSign("left turn", "turn left", "blue", _direction(-1, 0)),
    RoadSign("right turn", "turn right", "blue", _direction(1, 0)),
    RoadSign("straight on", "go straight", "blue", _direction(0, -1)),
    RoadSign("priority road", "you go first", "yellow", _priority),
    RoadSign("parking", "you may park", "blue", _parking),
    RoadSign("no parking", "do not park", "blue", _no_parking),
)
