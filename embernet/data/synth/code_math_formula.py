"""A sum, a difference or a product whose result is at most 20, to be read and solved."""

from functools import cache, partial

import numpy as np

from embernet.data.synth.canvas import Canvas
from embernet.data.synth.drawing import Question
from embernet.data.synth.palette import COLORS, background
from embernet.data.synth.plan import Compose, Plan, pick, yes_or_no

MAX_RESULT = 20
_OPERATIONS = {"+": "plus", "-": "minus", "x": "times"}
_PRINTED = {"-": "–", "x": "×"}  # noqa: RUF001
SOLVE = ("what is the result?", "what is the answer?", "solve it")

MARK_NAMES = (*"0123456789", *"+–×=")  # noqa: RUF001
TEXTS = (
    *SOLVE,
    *_OPERATIONS.values(),
    "0123456789 + 1 - 1 x 1 = 1 read the formula is it plus, minus or times? is the result more than 10?",
    "what is the first number? what is the second number?",
)


def choose(rng: np.random.Generator) -> Compose:
    return partial(_compose, pick(rng, tuple(_OPERATIONS)), bool(rng.random() < 0.5))


def _compose(sign: str, is_large: bool, rng: np.random.Generator) -> Plan:
    color = pick(rng, list(COLORS))
    a, b, result = pick(rng, _formulas(sign, is_large))
    formula = f"{a} {sign} {b}"
    place, number = pick(rng, (("first", a), ("second", b)))
    questions = [
        Question("solve", pick(rng, SOLVE), str(result)),
        Question("read", "read the formula", formula),
        Question("operation", "is it plus, minus or times?", _OPERATIONS[sign]),
        Question("number", f"what is the {place} number?", str(number)),
        Question("more", "is the result more than 10?", yes_or_no(is_large)),
    ]

    def paint(rng: np.random.Generator, typeface: str) -> Canvas:
        return _paint(str(a), sign, str(b), color, rng, typeface)

    # Formulas are facts to be learnt, like words: held out is how they are printed.
    return Plan("formula", f"{formula} {color}", f"{formula} = {result}", questions, paint)


@cache
def _formulas(sign: str, is_large: bool) -> list[tuple[int, int, int]]:
    """Every (a, b, result) with a result of more than 10, or not."""
    numbers = range(MAX_RESULT + 1)
    if sign == "+":
        found = [(a, b, a + b) for a in range(11) for b in range(11)]
    elif sign == "-":
        found = [(a, b, a - b) for a in numbers for b in range(11) if a >= b]
    else:
        found = [(a, b, a * b) for a in range(1, 11) for b in range(1, 11) if a * b <= MAX_RESULT]
    return [formula for formula in found if (formula[2] > 10) == is_large]


def _paint(a: str, sign: str, b: str, color: str, rng: np.random.Generator, typeface: str) -> Canvas:
    canvas = Canvas(background(rng, [color]), rng)
    ink, size, sign = canvas.ink(color), float(rng.uniform(0.8, 1)), _PRINTED.get(sign, sign)
    if rng.random() < 0.5:  # in one line
        text, y = f"{a} {sign} {b}{pick(rng, ('', ' ='))}", float(rng.uniform(0.25, 0.75))
        canvas.text(text, 0.5, y, 0.94 * size, 0.34 * size, typeface, ink, color)
    else:  # one above the other
        canvas.text(a, 0.62, 0.5 - 0.24 * size, 0.5 * size, 0.27 * size, typeface, ink, color)
        canvas.text(b, 0.62, 0.5 + 0.12 * size, 0.5 * size, 0.27 * size, typeface, ink, color)
        canvas.text(sign, 0.22, 0.5 + 0.12 * size, 0.17 * size, 0.17 * size, typeface, ink, color)
        y = 0.5 + 0.34 * size
        canvas.line([(0.12, y), (0.9, y)], ink, 0.02)
    return canvas
