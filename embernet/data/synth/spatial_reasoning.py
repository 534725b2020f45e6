"""Several shapes: how many of which kind, which is the odd one, and which stands between which."""

from collections.abc import Callable
from functools import partial

import numpy as np

from embernet.data.synth.canvas import PLACES, Canvas
from embernet.data.synth.drawing import Question
from embernet.data.synth.palette import COLORS, background
from embernet.data.synth.plan import Compose, Plan, pick, sample, yes_or_no
from embernet.data.synth.shapes import COUNTS, PLURALS, SHAPES, Thing, a_thing, scatter
from embernet.data.synth.spatial_scene import HOW_MANY, is_there, pick_thing

MARK_NAMES = SHAPES
TEXTS = (
    *HOW_MANY,
    *SHAPES,
    *PLURALS.values(),
    "how many circles are there? what color are the circles? what shape is red? is there a red circle? an orange",
    "are there more circles than stars? one two three four five six and one red circle",
    "which one is different? the red circle does the odd one differ in color or in shape? what color is the odd one?",
    "what shape is the odd one?",
    "from left to right: a circle, a star, a heart from top to bottom: what is between the circle and the heart?",
    "what is in the middle? is the circle to the left of the star? to the right of above below",
    "what is next to the circle?",
)
_NUMBERS = {1: "one"} | COUNTS


def choose(rng: np.random.Generator) -> Compose:
    in_color = bool(rng.random() < 0.5)
    kinds: tuple[Compose, ...] = (_alike, _kinds, partial(_odd_one_out, in_color), _row)
    return pick(rng, kinds)


def alike(rng: np.random.Generator) -> tuple[str, list[Thing], list[Question]]:
    """Two to six things alike: caption, things, questions."""
    _, color, shape, _ = pick_thing(rng)
    count = int(rng.integers(2, 7))
    radius = float(rng.uniform(0.07, 0.11))
    things = [Thing(str(count), color, shape, x, y, radius) for x, y in scatter(count, radius, rng)]
    plural = PLURALS[shape]
    questions = [
        Question("count", f"how many {plural} are there?", COUNTS[count]),
        Question("count", pick(rng, HOW_MANY), COUNTS[count]),
        Question("color", f"what color are the {plural}?", color),
        Question("shape", f"what shape is {color}?", shape),
        is_there(rng, things),
    ]
    return f"{COUNTS[count]} {color} {plural}", things, questions


def _alike(rng: np.random.Generator) -> Plan:
    caption, things, questions = alike(rng)
    return _plan("alike", caption, questions, lambda _: things)


def _kinds(rng: np.random.Generator) -> Plan:
    """Two kinds of things, up to three of each, in two colors."""
    colors, shapes = sample(rng, list(COLORS), 2), sample(rng, SHAPES, 2)
    counts = [int(rng.integers(1, 4)) for _ in range(2)]
    kinds = sorted(zip(counts, colors, shapes, strict=True), key=lambda kind: (-kind[0], kind[2]))
    roles = ("", "") if counts[0] == counts[1] else ("largest", "smallest")
    looks = [(*kind, role) for kind, role in zip(kinds, roles, strict=True) for _ in range(kind[0])]
    asked, other = sample(rng, kinds, 2)
    questions = [
        Question("count", f"how many {PLURALS[asked[2]]} are there?", _NUMBERS[asked[0]]),
        Question("count all", pick(rng, HOW_MANY), _NUMBERS[sum(counts)]),
        Question("color", f"what color {_be(asked[0], asked[2])}?", asked[1]),
    ]
    if asked[0] != other[0]:
        prompt = f"are there more {PLURALS[asked[2]]} than {PLURALS[other[2]]}?"
        questions.append(Question("more", prompt, yes_or_no(asked[0] > other[0])))
    caption = " and ".join(_several(*kind) for kind in kinds)
    return _plan("kinds", caption, questions, partial(_scattered, looks))


def _odd_one_out(in_color: bool, rng: np.random.Generator) -> Plan:
    """Three or four things alike and one that differs in color or in shape."""
    color, shape, count = pick(rng, list(COLORS)), pick(rng, SHAPES), int(rng.integers(3, 5))
    odd_color = pick(rng, [name for name in COLORS if name != color]) if in_color else color
    odd_shape = shape if in_color else pick(rng, [name for name in SHAPES if name != shape])
    questions = [
        Question("odd", "which one is different?", f"the {odd_color} {odd_shape}"),
        Question("differs", "does the odd one differ in color or in shape?", "in color" if in_color else "in shape"),
        Question("odd color", "what color is the odd one?", odd_color),
        Question("odd shape", "what shape is the odd one?", odd_shape),
    ]
    caption = f"{_several(count, color, shape)} and {_several(1, odd_color, odd_shape)}"
    looks = [(count, color, shape, "")] * count + [(1, odd_color, odd_shape, "odd")]
    return _plan("odd one out", caption, questions, partial(_scattered, looks))


def _row(rng: np.random.Generator) -> Plan:
    """Three things beside or above each other."""
    colors, shapes = [pick(rng, list(COLORS)) for _ in range(3)], sample(rng, SHAPES, 3)
    vertical = bool(rng.random() < 0.5)
    line = float(rng.uniform(0.3, 0.7))
    things = []
    for i, look in enumerate(zip(colors, shapes, strict=True)):
        radius = float(rng.uniform(0.11, 0.13))
        along, across = (a + float(rng.uniform(-0.04, 0.04)) for a in (0.18 + 0.32 * i, line))
        x, y = (across, along) if vertical else (along, across)
        things.append(Thing(PLACES[i], *look, x, y, radius))
    names = [a_thing(thing.color, thing.shape) for thing in things]
    before, after = ("above", "below") if vertical else ("to the left of", "to the right of")
    i, j = sample(rng, range(3), 2)
    forwards = bool(rng.random() < 0.5)
    end = things[pick(rng, (0, 2))]
    questions = [
        Question("between", f"what is between the {shapes[0]} and the {shapes[2]}?", names[1]),
        Question("between", "what is in the middle?", names[1]),
        Question("next", f"what is next to the {end.shape}?", names[1]),
        Question(
            "relation",
            f"is the {shapes[i]} {before if forwards else after} the {shapes[j]}?",
            yes_or_no((i < j) == forwards),
        ),
    ]
    direction = "from top to bottom" if vertical else "from left to right"
    return _plan("row", f"{direction}: {', '.join(names)}", questions, lambda _: things)


def _scattered(looks: list[tuple[int, str, str, str]], rng: np.random.Generator) -> list[Thing]:
    """Things somewhere; looks: how many there are of it, color, shape and role of each."""
    radius = float(rng.uniform(0.08, 0.11))
    centres = scatter(len(looks), radius, rng)
    return [
        Thing(str(count), color, shape, x, y, radius, role)
        for (count, color, shape, role), (x, y) in zip(looks, centres, strict=True)
    ]


def _plan(
    kind: str, caption: str, questions: list[Question], place: Callable[[np.random.Generator], list[Thing]]
) -> Plan:
    def paint(rng: np.random.Generator, _: str) -> Canvas:
        things = place(rng)
        canvas = Canvas(background(rng, [thing.color for thing in things]), rng)
        for thing in things:
            canvas.thing(thing)
        return canvas

    return Plan(kind, caption, caption, questions, paint)


def _several(count: int, color: str, shape: str) -> str:
    return f"{_NUMBERS[count]} {color} {shape if count == 1 else PLURALS[shape]}"


def _be(count: int, shape: str) -> str:
    return f"is the {shape}" if count == 1 else f"are the {PLURALS[shape]}"
