"""Flags, road signs and symbols, and what one has to know about them."""

from collections.abc import Sequence
from functools import partial
from typing import TypeAlias, TypeVar

import numpy as np

from embernet.data.synth.canvas import Canvas
from embernet.data.synth.drawing import Question
from embernet.data.synth.flags import FLAGS, Flag
from embernet.data.synth.palette import COLORS, contrasting, jitter
from embernet.data.synth.plan import Compose, Plan, pick, yes_or_no
from embernet.data.synth.road_signs import ROAD_SIGNS, RoadSign
from embernet.data.synth.symbols import SYMBOLS, Symbol

T = TypeVar("T")
_Sign: TypeAlias = RoadSign | Symbol

_CORNERS = {"top left": (-1, -1), "top right": (1, -1), "bottom left": (-1, 1), "bottom right": (1, 1)}
_HALVES = {"small": (0.28, 0.35), "large": (0.35, 0.42)}  # of the side

MARK_NAMES = (
    *(flag.name for flag in FLAGS),
    *(sign.name for sign in ROAD_SIGNS),
    *(symbol.name for symbol in SYMBOLS),
    *"stop350",  # what is written on the signs
)
TEXTS = (
    *(f"the {flag.name} {flag.capital} {flag.continent}" for flag in FLAGS),
    *(f"the road sign {sign.name} {sign.meaning}" for sign in ROAD_SIGNS),
    *(f"the symbol {symbol.name} {symbol.meaning}" for symbol in SYMBOLS),
    "does it mean stop? what does it mean? what is it called?",
    "which country is it? what is the capital? which continent is it on? is it the flag of france?",
)


def choose(rng: np.random.Generator) -> Compose:
    kinds: tuple[Compose, ...] = (
        _flag,
        partial(_sign, "road sign", ROAD_SIGNS),
        partial(_sign, "symbol", SYMBOLS),
    )
    return pick(rng, kinds)


def _flag(rng: np.random.Generator) -> Plan:
    flag, said, is_right = _asked(FLAGS, rng)
    questions = [
        Question("country", "which country is it?", flag.country),
        Question("capital", "what is the capital?", flag.capital),
        Question("continent", "which continent is it on?", flag.continent),
        Question("is it", f"is it the {said.name}?", yes_or_no(is_right)),
    ]
    return _plan("flag", flag, f"the {flag.name}", questions, rng)


def _sign(kind: str, signs: Sequence[_Sign], rng: np.random.Generator) -> Plan:
    sign, said, is_right = _asked(signs, rng)
    questions = [
        Question("meaning", "what does it mean?", sign.meaning),
        Question("name", "what is it called?", sign.name),
        Question("does it", f"does it mean {said.meaning}?", yes_or_no(is_right)),
    ]
    return _plan(kind, sign, f"the {kind} {sign.name}", questions, rng)


def _asked(things: Sequence[T], rng: np.random.Generator) -> tuple[T, T, bool]:
    """What is shown, what a yes/no question asks for, and whether these are the same."""
    thing, is_right = pick(rng, things), bool(rng.random() < 0.5)
    return thing, thing if is_right else pick(rng, [other for other in things if other is not thing]), is_right


def _plan(kind: str, thing: Flag | _Sign, caption: str, questions: list[Question], rng: np.random.Generator) -> Plan:
    wall, corner, size = pick(rng, list(COLORS)), pick(rng, tuple(_CORNERS)), pick(rng, tuple(_HALVES))

    def paint(rng: np.random.Generator, typeface: str) -> Canvas:
        return _paint(thing, wall, _CORNERS[corner], _HALVES[size], rng, typeface)

    # There are few of them: held out is how large they are, and where on which wall.
    return Plan(kind, f"{size} {thing.name} {corner} on {wall}", caption, questions, paint)


def _paint(
    thing: Flag | _Sign,
    wall: str,
    corner: tuple[int, int],
    halves: tuple[float, float],
    rng: np.random.Generator,
    typeface: str,
) -> Canvas:
    paper = jitter(COLORS[wall], 30, rng)
    canvas = Canvas(paper, rng)
    half = float(rng.uniform(*halves))
    x, y = (0.5 + towards * float(rng.uniform(0, 0.47 - half)) for towards in corner)
    if isinstance(thing, Flag):
        thing.paint(canvas, x, y, half, half * float(rng.uniform(0.6, 0.72)))
    elif isinstance(thing, RoadSign):
        if rng.random() < 0.5:
            canvas.rectangle(x, (y + 1) / 2, 0.03, (1 - y) / 2, COLORS[contrasting(paper, rng)])
        thing.paint(canvas, x, y, 0.92 * half, typeface)
    else:
        thing.paint(canvas, x, y, 0.9 * half, contrasting(paper, rng))
    return canvas
