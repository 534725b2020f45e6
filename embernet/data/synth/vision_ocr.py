"""One word in capitals, of a list of 200, or a number of up to four digits: on paper, a sign, a button or a label."""

from collections.abc import Sequence
from functools import cache, partial

import numpy as np

from embernet.data.synth.canvas import Canvas
from embernet.data.synth.drawing import Question
from embernet.data.synth.palette import COLORS, background, contrasting
from embernet.data.synth.plan import Compose, Plan, pick, yes_or_no
from embernet.data.synth.words import WORDS

SURFACES = {"paper": "on paper", "sign": "on a sign", "button": "on a button", "label": "on a label"}
LENGTHS = {1: "one", 2: "two", 3: "three", 4: "four", 5: "five"}
READ = ("what does it say?", "what is written here?", "read the text")

MARK_NAMES = tuple("abcdefghijklmnopqrstuvwxyz0123456789")
TEXTS = (
    *READ,
    *WORDS,
    *MARK_NAMES,
    *SURFACES.values(),
    *LENGTHS.values(),
    "the word cat in red what is the word? the number 0 what is the number? what color is the word? where is it?",
    "how many letters are there? how many digits are there? what is the first letter? what is the last digit?",
    "does it say cat?",
)


def choose(rng: np.random.Generator) -> Compose:
    if rng.random() < 0.5:
        return partial(_compose, _words(pick(rng, (3, 4, 5))))
    digits = pick(rng, (1, 2, 3, 4))
    return partial(_compose, range(10 ** (digits - 1) if digits > 1 else 0, 10**digits))


def _compose(texts: Sequence[str] | Sequence[int], rng: np.random.Generator) -> Plan:
    text, color, surface = str(pick(rng, texts)), pick(rng, list(COLORS)), pick(rng, list(SURFACES))
    kind, part = ("number", "digit") if text.isdigit() else ("word", "letter")
    place, letter = pick(rng, (("first", text[0]), ("last", text[-1])))
    said = bool(rng.random() < 0.5)
    questions = [
        Question("text", pick(rng, (*READ, f"what is the {kind}?")), text),
        Question("color", f"what color is the {kind}?", color),
        Question("surface", "where is it?", SURFACES[surface]),
        Question("length", f"how many {part}s are there?", LENGTHS[len(text)]),
        Question("letter", f"what is the {place} {part}?", letter),
        Question("is it", f"does it say {text if said else _near(text, rng)}?", yes_or_no(said)),
    ]
    # Words and short numbers are too few to be held out themselves.
    content = text if kind == "number" and len(text) > 2 else f"{text} {color} {surface}"

    def paint(rng: np.random.Generator, typeface: str) -> Canvas:
        return _paint(text, color, surface, rng, typeface)

    return Plan(kind, content, f"the {kind} {text} in {color} {SURFACES[surface]}", questions, paint)


@cache
def _words(length: int) -> list[str]:
    return [word for word in WORDS if len(word) == length]


def _near(text: str, rng: np.random.Generator) -> str:
    """Another word, half of the time one that begins alike, or a number with one digit changed."""
    if text.isdigit():
        place = rng.integers(len(text))
        digit = pick(rng, [d for d in "0123456789" if d != text[place] and (d != "0" or place or len(text) == 1)])
        return f"{text[:place]}{digit}{text[place + 1 :]}"
    others = [word for word in WORDS if word != text]
    alike = [word for word in others if word[0] == text[0]]
    return pick(rng, alike if alike and rng.random() < 0.5 else others)


def _paint(text: str, color: str, surface: str, rng: np.random.Generator, typeface: str) -> Canvas:
    around = background(rng, [color])
    canvas = Canvas(around, rng)
    ink, size = canvas.ink(color), float(rng.uniform(0.75, 1))
    if surface == "paper":
        room = 1 - 0.9 * size
        x, y = 0.5 + room / 2 * rng.uniform(-1, 1), float(rng.uniform(0.25, 0.75))
        canvas.text(text.upper(), x, y, 0.9 * size, 0.36 * size, typeface, ink, color)
        return canvas
    plate, edge = around, COLORS[contrasting(around, rng)]
    x, y, width, height = 0.5, float(rng.uniform(0.35, 0.6)), 0.46, float(rng.uniform(0.2, 0.26))
    wall = COLORS[contrasting(plate, rng)] if rng.random() < 0.5 else background(rng, ["black", "white"])
    canvas = Canvas(wall, rng)
    if surface == "sign":  # a board with a frame on a post
        canvas.rectangle(x, (y + 1) / 2, 0.05, (1 - y) / 2, edge)
        canvas.rectangle(x, y, width, height, edge)
        canvas.rectangle(x, y, width - 0.025, height - 0.025, plate)
    elif surface == "button":  # round ends, and the shadow of what sticks out
        canvas.rectangle(x, y + 0.04, width, height, _darker(wall), radius=height)
        canvas.rectangle(x, y, width, height, plate, radius=height)
    else:  # a tag with a pointed end and a hole for the string
        corners = [(0.2, y - height), (0.99, y - height), (0.99, y + height), (0.2, y + height), (0.02, y)]
        canvas.polygon(corners, plate)
        canvas.line([*corners, corners[0]], edge, 0.015)
        canvas.ellipse(0.12, y, 0.035, 0.035, wall)
        x, width = 0.58, 0.41
    canvas.text(text.upper(), x, y, 1.72 * width * size, 1.3 * height * size, typeface, ink, color)
    return canvas


def _darker(color: tuple[int, int, int]) -> tuple[int, int, int]:
    r, g, b = (channel // 2 for channel in color)
    return r, g, b
