"""What takes two steps: prices to add and to compare, a stock to check, two numbers."""

from functools import partial

import numpy as np

from embernet.data.synth.canvas import Canvas
from embernet.data.synth.drawing import Question
from embernet.data.synth.palette import COLORS, background, contrasting
from embernet.data.synth.plan import Compose, Plan, pick, sample, yes_or_no
from embernet.data.synth.shapes import PLURALS, SHAPES, Thing, a_thing, scatter

BUDGET = 10
_NUMBERS = ("zero", "one", "two", "three", "four", "five", "six")

MARK_NAMES = (*SHAPES, *"0123456789")
TEXTS = (
    *SHAPES,
    *PLURALS.values(),
    *_NUMBERS,
    "a red star for 4 and an orange heart for 0123456789",
    "which is cheaper? which costs more? how much is the star? what do both cost together? is 10 enough for both?",
    "the star 5 needed and three red stars are there are there enough stars? how many are needed?",
    "how many stars are missing? how many stars are there?",
    "42 on the left and 17 on the right 42 at the top and 17 at the bottom which number is larger?",
    "which number is smaller? is the left number larger? is the top number larger? right bottom",
    "what color is the larger number? smaller",
)


def choose(rng: np.random.Generator) -> Compose:
    is_enough = bool(rng.random() < 0.5)
    kinds: tuple[Compose, ...] = (partial(_prices, is_enough), partial(_stock, is_enough), _numbers)
    return pick(rng, kinds)


def _prices(is_enough: bool, rng: np.random.Generator) -> Plan:
    """Two things with a price from 1 to 9; BUDGET is enough for both or not."""
    prices = [(a, b) for a in range(1, 10) for b in range(1, 10) if a != b and (a + b <= BUDGET) == is_enough]
    a, b = pick(rng, prices)
    (color_a, shape_a), (color_b, shape_b) = zip(sample(rng, list(COLORS), 2), sample(rng, SHAPES, 2), strict=True)
    asked, price = pick(rng, ((shape_a, a), (shape_b, b)))
    cheaper, dearer = (shape_a, shape_b) if a < b else (shape_b, shape_a)
    questions = [
        Question("cheaper", "which is cheaper?", f"the {cheaper}"),
        Question("dearer", "which costs more?", f"the {dearer}"),
        Question("price", f"how much is the {asked}?", str(price)),
        Question("total", "what do both cost together?", str(a + b)),
        Question("enough", f"is {BUDGET} enough for both?", yes_or_no(is_enough)),
    ]
    looks = ((color_a, shape_a, a), (color_b, shape_b, b))

    def paint(rng: np.random.Generator, typeface: str) -> Canvas:
        """A list of prices, or tags under what is for sale."""
        paper = background(rng, [color_a, color_b])
        canvas = Canvas(paper, rng)
        is_list = bool(rng.random() < 0.5)
        ink = contrasting(paper, rng)
        for (color, shape, price), place in zip(looks, (0.27, 0.73), strict=True):
            x, y = (0.3, place) if is_list else (place, 0.28)
            role = _role(price, a, b)
            canvas.thing(Thing(str(price), color, shape, x, y, float(rng.uniform(0.17, 0.2)), role))
            x, y = (0.72, place) if is_list else (place, 0.75)
            canvas.text(str(price), x, y, 0.3, 0.28, typeface, canvas.ink(ink), ink, str(price), role)
        return canvas

    caption = f"{a_thing(color_a, shape_a)} for {a} and {a_thing(color_b, shape_b)} for {b}"
    return Plan("prices", caption, caption, questions, paint)


def _stock(is_enough: bool, rng: np.random.Generator) -> Plan:
    """How many are needed, printed at the top, and how many there are: enough or not."""
    pairs = [(need, stock) for need in range(1, 7) for stock in range(1, 7) if (stock >= need) == is_enough]
    need, stock = pick(rng, pairs)
    color, shape = pick(rng, list(COLORS)), pick(rng, SHAPES)
    plural = PLURALS[shape]
    questions = [
        Question("enough", f"are there enough {plural}?", yes_or_no(is_enough)),
        Question("needed", "how many are needed?", _NUMBERS[need]),
        Question("count", f"how many {plural} are there?", _NUMBERS[stock]),
    ]
    if not is_enough:
        questions.append(Question("missing", f"how many {plural} are missing?", _NUMBERS[need - stock]))

    def paint(rng: np.random.Generator, typeface: str) -> Canvas:
        paper = background(rng, [color])
        canvas = Canvas(paper, rng)
        ink = contrasting(paper, rng)
        canvas.rectangle(0.5, 0.36, 0.47, 0.006, canvas.ink(ink))
        canvas.text(str(need), 0.5, 0.18, 0.3, 0.26, typeface, canvas.ink(ink), ink)
        radius = float(rng.uniform(0.075, 0.095))
        for x, y in scatter(stock, radius, rng, top=0.38):
            canvas.thing(Thing(str(stock), color, shape, x, y, radius))
        return canvas

    are = f"{color} {shape} is" if stock == 1 else f"{color} {plural} are"
    return Plan("stock", caption := f"{need} needed and {_NUMBERS[stock]} {are} there", caption, questions, paint)


def _numbers(rng: np.random.Generator) -> Plan:
    """Two numbers below 100, beside or above each other."""
    a, b = sample(rng, range(1, 100), 2)
    color_a, color_b = sample(rng, list(COLORS), 2)
    is_beside = bool(rng.random() < 0.5)
    first, second = ("left", "right") if is_beside else ("top", "bottom")
    asked, is_larger = pick(rng, ((first, a > b), (second, b > a)))
    size, color = pick(rng, (("larger", color_a if a > b else color_b), ("smaller", color_a if a < b else color_b)))
    questions = [
        Question("larger", "which number is larger?", str(max(a, b))),
        Question("smaller", "which number is smaller?", str(min(a, b))),
        Question("is larger", f"is the {asked} number larger?", yes_or_no(is_larger)),
        Question("color", f"what color is the {size} number?", color),
    ]

    def paint(rng: np.random.Generator, typeface: str) -> Canvas:
        canvas = Canvas(background(rng, [color_a, color_b]), rng)
        for number, color, place in ((a, color_a, 0.27), (b, color_b, 0.73)):
            x, y = (place, float(rng.uniform(0.35, 0.65))) if is_beside else (float(rng.uniform(0.35, 0.65)), place)
            canvas.text(str(number), x, y, 0.4, 0.34, typeface, canvas.ink(color), color, role=_role(number, a, b))
        return canvas

    at = "on the {} and {} on the {}" if is_beside else "at the {} and {} at the {}"
    caption = f"{a} {at.format(first, b, second)}"
    return Plan("numbers", caption, caption, questions, paint)


def _role(value: int, a: int, b: int) -> str:
    """What the mark of one of two values says."""
    return "largest" if value == max(a, b) else "smallest"
