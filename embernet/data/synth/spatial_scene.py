"""One or two shapes: their colors and sizes, where they are, and how they stand to each other."""

from collections.abc import Callable, Sequence
from functools import partial

import numpy as np

from embernet.data.synth.canvas import Canvas
from embernet.data.synth.drawing import Question
from embernet.data.synth.palette import COLORS, background
from embernet.data.synth.plan import Compose, Plan, pick, yes_or_no
from embernet.data.synth.shapes import SHAPES, SIZES, Thing, a_thing

PLACES = (
    ("in the top left", "at the top", "in the top right"),
    ("on the left", "in the center", "on the right"),
    ("in the bottom left", "at the bottom", "in the bottom right"),
)
HOW_MANY = ("how many objects are there?", "how many shapes are there?", "count the objects")

MARK_NAMES = SHAPES
TEXTS = (
    *HOW_MANY,
    *SHAPES,
    *SIZES,
    *(place for row in PLACES for place in row),
    "what is above the circle? what is below the circle? what is to the left of the circle? to the right of",
    "what shape is red? what color is the circle? where is the circle? is there a red circle? an orange",
    "one two",
)


def choose(rng: np.random.Generator) -> Compose:
    return partial(_compose, pick(rng, (one, two)))


def _compose(
    arrange: Callable[[np.random.Generator], tuple[str, list[Thing], list[Question]]], rng: np.random.Generator
) -> Plan:
    caption, things, questions = arrange(rng)

    def paint(rng: np.random.Generator, _: str) -> Canvas:
        canvas = Canvas(background(rng, [thing.color for thing in things]), rng)
        for thing in things:
            canvas.thing(thing)
        return canvas

    return Plan("scene", caption, caption, questions, paint)


def one(rng: np.random.Generator) -> tuple[str, list[Thing], list[Question]]:
    """One thing somewhere: caption, things, questions."""
    size, color, shape, radius = pick_thing(rng)
    row, column = rng.integers(3), rng.integers(3)
    x, y = (float(np.clip((c + 0.5) / 3 + rng.uniform(-0.06, 0.06), radius, 1 - radius)) for c in (column, row))
    thing, place = Thing(size, color, shape, x, y, radius), PLACES[row][column]
    questions = [
        Question("color", f"what color is the {shape}?", color),
        Question("shape", f"what shape is {color}?", shape),
        Question("place", f"where is the {shape}?", place),
        Question("count", pick(rng, HOW_MANY), "one"),
        is_there(rng, [thing]),
    ]
    return f"a {thing.name} {place}", [thing], questions


def two(rng: np.random.Generator) -> tuple[str, list[Thing], list[Question]]:
    """Two things, one beside or above the other: caption, things, questions."""
    first, second = pick_thing(rng), pick_thing(rng)
    while first[1:3] == second[1:3]:
        second = pick_thing(rng)
    vertical, r1, r2 = rng.random() < 0.5, first[3], second[3]
    # `along` is the axis of the relation; across it they differ by less, so that the relation is plain to see.
    gap = 1.1 * (r1 + r2)
    along1 = rng.uniform(r1, 1 - r2 - gap)
    along2 = rng.uniform(along1 + gap, 1 - r2)
    across1 = rng.uniform(r1, 1 - r1)
    across2 = float(np.clip(across1 + rng.uniform(-1, 1) * (along2 - along1) / 1.6, r2, 1 - r2))
    (x1, x2), (y1, y2) = (along1, along2), (across1, across2)
    if vertical:
        x1, x2, y1, y2 = y1, y2, x1, x2
    a, b = Thing(*first[:3], x1, y1, r1), Thing(*second[:3], x2, y2, r2)
    before, after = ("above", "below") if vertical else ("to the left of", "to the right of")
    same_shape, same_color = a.shape == b.shape, a.color == b.color
    a_name, b_name = (f"{t.color} {t.shape}" if same_shape else t.shape for t in (a, b))
    questions = [
        Question("relation", f"what is {before} the {b_name}?", f"a {a.name}"),
        Question("relation", f"what is {after} the {a_name}?", f"a {b.name}"),
        Question("count", pick(rng, HOW_MANY), "two"),
        is_there(rng, [a, b]),
    ]
    if not same_shape:
        questions += [Question("color", f"what color is the {t.shape}?", t.color) for t in (a, b)]
    if not same_color:
        questions += [Question("shape", f"what shape is {t.color}?", t.shape) for t in (a, b)]
    return f"a {a.name} {before} a {b.name}", [a, b], questions


def pick_thing(rng: np.random.Generator) -> tuple[str, str, str, float]:
    """A size, a color, a shape, and a radius that fits the size."""
    size = pick(rng, list(SIZES))
    low, high = SIZES[size]
    return size, pick(rng, list(COLORS)), pick(rng, SHAPES), float(rng.uniform(low, high))


def is_there(rng: np.random.Generator, things: Sequence[Thing]) -> Question:
    """A yes/no question that is true half of the time; a false one is near: it changes the color or the shape."""
    thing = pick(rng, things)
    color, shape = thing.color, thing.shape
    yes = bool(rng.random() < 0.5)
    while not yes and any((t.color, t.shape) == (color, shape) for t in things):
        if rng.random() < 0.5:
            color = pick(rng, list(COLORS))
        else:
            shape = pick(rng, SHAPES)
    return Question("exists", f"is there {a_thing(color, shape)}?", yes_or_no(yes))
