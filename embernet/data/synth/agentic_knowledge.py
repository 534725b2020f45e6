"""Flags, road signs and symbols, and what one has to know about them."""

from collections.abc import Sequence
from functools import partial

import numpy as np

from embernet.data.synth.canvas import Canvas
from embernet.data.synth.drawing import Question
from embernet.data.synth.flags import FLAGS, Flag
from embernet.data.synth.palette import COLORS, contrasting, jitter
from embernet.data.synth.plan import Compose, Plan, pick, yes_or_no
from embernet.data.synth.road_signs import ROAD_SIGNS, RoadSign
from embernet.data.synth.symbols import SYMBOLS, Symbol

_CORNERS = {"top left": (-1, -1), "top right": (1, -1), "bottom left": (-1, 1), "bottom right": (1, 1)}
_HALVES = {"small": (0.28, 0.35), "large": (0.35, 0.42)}  # of the side

MARK_NAMES = (
    *(flag.name for flag in FLAGS),
    *(sign.name for sign in ROAD_SIGNS),
    *(symbol.name for symbol in SYMBOLS),
    *"stop0123456789p",
)
TEXTS = (
    *(f"the {flag.name} {flag.capital} {flag.continent}" for flag in FLAGS),
    *(f"the road sign {sign.name} {sign.meaning}" for sign in ROAD_SIGNS),
    *(f"the symbol {symbol.name} {symbol.meaning}" for symbol in SYMBOLS),
    "does it mean stop? what does it mean? what is it called?",
    "which country is it? what is the capital? which continent is it on? is it the flag of france?",
)


def choose(rng: np.random.Generator) -> Compose:
    things: Sequence[Flag] | Sequence[RoadSign] | Sequence[Symbol] = pick(rng, (FLAGS, ROAD_SIGNS, SYMBOLS))
    return partial(_compose, things)


def _compose(things: Sequence[Flag] | Sequence[RoadSign] | Sequence[Symbol], rng: np.random.Generator) -> Plan:
    wall, corner, size = pick(rng, list(COLORS)), pick(rng, tuple(_CORNERS)), pick(rng, tuple(_HALVES))
    thing = pick(rng, things)
    is_right = bool(rng.random() < 0.5)
    said = thing if is_right else pick(rng, [other for other in things if other is not thing])
    if isinstance(thing, Flag) and isinstance(said, Flag):
        kind, caption = "flag", f"the {thing.name}"
        questions = [
            Question("country", "which country is it?", thing.country),
            Question("capital", "what is the capital?", thing.capital),
            Question("continent", "which continent is it on?", thing.continent),
            Question("is it", f"is it the {said.name}?", yes_or_no(is_right)),
        ]
    elif not isinstance(thing, Flag) and not isinstance(said, Flag):
        kind = "road sign" if isinstance(thing, RoadSign) else "symbol"
        caption = f"the {kind} {thing.name}"
        questions = [
            Question("meaning", "what does it mean?", thing.meaning),
            Question("name", "what is it called?", thing.name),
            Question("does it", f"does it mean {said.meaning}?", yes_or_no(is_right)),
        ]

    def paint(rng: np.random.Generator, typeface: str) -> Canvas:
        return _paint(thing, wall, _CORNERS[corner], _HALVES[size], rng, typeface)

    # There are few of them: held out is how large they are, and where on which wall.
    return Plan(kind, f"{size} {thing.name} {corner} on {wall}", caption, questions, paint)


def _paint(
    thing: Flag | RoadSign | Symbol,
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
