"""Bar charts with two to four bars and values from 1 to 6, and pie charts of three slices."""

import math
from functools import partial

import numpy as np

from embernet.data.synth.canvas import ROLES, Canvas
from embernet.data.synth.drawing import Question
from embernet.data.synth.palette import COLORS, Rgb, background, contrasting
from embernet.data.synth.plan import Compose, Plan, pick, sample, yes_or_no
from embernet.data.synth.vision_diagram import LETTERS

MAX_VALUE = 6
_COUNTS = {2: "two", 3: "three", 4: "four"}

MARK_NAMES = ("bar", "slice", *LETTERS, *(str(value) for value in range(1, MAX_VALUE + 1)))
TEXTS = (
    *LETTERS,
    *COLORS,
    *_COUNTS.values(),
    "bar chart: c 123456, f 1 which bar is the highest? which bar is the lowest? what is the value of c?",
    "how many bars are there? is c higher than f?",
    "pie chart: red largest, blue, green smallest which slice is the largest? which slice is the smallest?",
    "is the red slice larger than the blue one?",
)


def choose(rng: np.random.Generator) -> Compose:
    return partial(_bars, pick(rng, tuple(_COUNTS))) if rng.random() < 0.65 else _pie


def _bars(count: int, rng: np.random.Generator) -> Plan:
    letters, values = sample(rng, LETTERS, count), sample(rng, range(1, MAX_VALUE + 1), count)
    value_of = dict(zip(letters, values, strict=True))
    asked, (a, b) = pick(rng, letters), sample(rng, letters, 2)
    questions = [
        Question("highest", "which bar is the highest?", max(letters, key=value_of.__getitem__)),
        Question("lowest", "which bar is the lowest?", min(letters, key=value_of.__getitem__)),
        Question("value", f"what is the value of {asked}?", str(value_of[asked])),
        Question("bars", "how many bars are there?", _COUNTS[count]),
        Question("higher", f"is {a} higher than {b}?", yes_or_no(value_of[a] > value_of[b])),
    ]
    caption = f"bar chart: {', '.join(f'{letter} {value}' for letter, value in value_of.items())}"

    def paint(rng: np.random.Generator, typeface: str) -> Canvas:
        return _paint_bars(value_of, rng, typeface)

    return Plan("bars", caption, caption, questions, paint)


def _paint_bars(value_of: dict[str, int], rng: np.random.Generator, typeface: str) -> Canvas:
    dark = bool(rng.random() < 0.3)
    paper = background(rng, ["white" if dark else "black"])
    canvas = Canvas(paper, rng)
    ink_color = "white" if dark else "black"
    ink = canvas.ink(ink_color)
    left, right, top, bottom = 0.06, 0.96, 0.06, 0.78
    unit, step = (bottom - top) / MAX_VALUE, (right - left) / len(value_of)
    for value in range(1, MAX_VALUE + 1):
        y = bottom - value * unit
        canvas.line([(left, y), (right, y)], _between(ink, paper, 0.35), 0.006)
    color, is_colorful, half = contrasting(paper, rng), bool(rng.random() < 0.5), step * float(rng.uniform(0.3, 0.42))
    are_printed = bool(rng.random() < 0.5)
    for i, (letter, value) in enumerate(value_of.items()):
        color = contrasting(paper, rng) if is_colorful else color
        x, height = left + (i + 0.5) * step, value * unit
        role = {min(value_of.values()): "smallest", max(value_of.values()): "largest"}.get(value, "middle")
        says = {"size": str(value), "role": role}
        fill = canvas.ink(color)
        canvas.rectangle(x, bottom - height / 2, half, height / 2, fill)
        canvas.mark("bar", x, bottom - height / 2, half, height / 2, color, **says)
        canvas.text(letter.upper(), x, 0.885, 0.16, 0.14, typeface, ink, ink_color, **says)
        if are_printed:
            canvas.text(str(value), x, bottom - unit / 2, 0.14, 0.095, typeface, paper, **says)
    canvas.line([(left, top), (left, bottom), (right, bottom)], ink, 0.014)
    return canvas


def _pie(rng: np.random.Generator) -> Plan:
    colors = sample(rng, list(COLORS), 3)
    a, b = sample(rng, range(3), 2)
    questions = [
        Question("largest", "which slice is the largest?", colors[0]),
        Question("smallest", "which slice is the smallest?", colors[2]),
        Question("larger", f"is the {colors[a]} slice larger than the {colors[b]} one?", yes_or_no(a < b)),
    ]
    caption = f"pie chart: {colors[0]} largest, {colors[1]}, {colors[2]} smallest"

    def paint(rng: np.random.Generator, _: str) -> Canvas:
        return _paint_pie(colors, rng)

    return Plan("pie", caption, caption, questions, paint)


def _paint_pie(colors: list[str], rng: np.random.Generator) -> Canvas:
    """colors: of the slices, from the largest to the smallest."""
    smallest, middle = float(rng.uniform(0.11, 0.18)), float(rng.uniform(0.26, 0.33))
    shares = (1 - smallest - middle, middle, smallest)
    canvas = Canvas(background(rng, colors), rng)
    radius = float(rng.uniform(0.36, 0.45))
    x, y = (float(c) for c in rng.uniform(radius + 0.02, 0.98 - radius, 2))
    start = float(rng.uniform(0, 360))
    for i in sample(rng, range(3), 3):
        end = start + 360 * shares[i]
        canvas.slice(x, y, radius, start, end, canvas.ink(colors[i]))
        angle, out = math.radians((start + end) / 2), 0.6 * radius
        size = 0.13 if i else 0.2
        canvas.mark(
            "slice", x + out * math.cos(angle), y + out * math.sin(angle), size, size, colors[i], role=ROLES[2 - i]
        )
        start = end
    return canvas


def _between(a: Rgb, b: Rgb, share: float) -> Rgb:
    """`share` of color a, the rest of b."""
    red, green, blue = (round(share * p + (1 - share) * q) for p, q in zip(a, b, strict=True))
    return red, green, blue
