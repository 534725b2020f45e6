"""Three boxes with letters and one to three arrows between them."""

import math
from collections.abc import Iterable
from functools import partial
from itertools import combinations

import numpy as np

from embernet.data.synth.canvas import Canvas
from embernet.data.synth.drawing import Question
from embernet.data.synth.palette import COLORS, background, black_or_white, contrasting
from embernet.data.synth.plan import Compose, Plan, listed, pick, sample, yes_or_no

LETTERS = "cfhkmtxz"  # eight that look different
_COUNTS = {1: "one", 2: "two", 3: "three"}
_DIRECTIONS = ("right", "down right", "down", "down left", "left", "up left", "up", "up right")

MARK_NAMES = (*LETTERS, *(f"arrow {direction}" for direction in _DIRECTIONS))
TEXTS = (
    *LETTERS,
    *_COUNTS.values(),
    "c points to f, h is alone what does c point to? nothing f and h what points to f?",
    "which box has no arrow? how many arrows are there? does c point to f?",
)


def choose(rng: np.random.Generator) -> Compose:
    return partial(_compose, pick(rng, tuple(_COUNTS)))


def _compose(count: int, rng: np.random.Generator) -> Plan:
    letters = sample(rng, LETTERS, 3)
    pairs = [(letters[0], letters[1]), (letters[0], letters[2]), (letters[1], letters[2])]
    arrows = sorted(pair if rng.random() < 0.5 else pair[::-1] for pair in sample(rng, pairs, count))
    alone = [letter for letter in letters if not any(letter in arrow for arrow in arrows)]
    sources, targets = ({arrow[end] for arrow in arrows} for end in (0, 1))
    source, target = _one_of(letters, sources, rng), _one_of(letters, targets, rng)
    yes = bool(rng.random() < 0.5)
    asked = pick(rng, arrows)
    if not yes:
        not_there = [pair for p in pairs for pair in (p, p[::-1]) if pair not in arrows]
        asked = asked[::-1] if rng.random() < 0.5 else pick(rng, not_there)
    questions = [
        Question("points to", f"what does {source} point to?", _named(b for a, b in arrows if a == source)),
        Question("pointed from", f"what points to {target}?", _named(a for a, b in arrows if b == target)),
        Question("arrows", "how many arrows are there?", _COUNTS[count]),
        Question("does it", f"does {asked[0]} point to {asked[1]}?", yes_or_no(yes)),
    ]
    if alone:
        questions.append(Question("alone", "which box has no arrow?", alone[0]))
    caption = ", ".join([*(f"{a} points to {b}" for a, b in arrows), *(f"{letter} is alone" for letter in alone)])

    def paint(rng: np.random.Generator, typeface: str) -> Canvas:
        return _paint(letters, arrows, rng, typeface)

    return Plan("diagram", caption, caption, questions, paint)


def _one_of(letters: list[str], with_arrow: set[str], rng: np.random.Generator) -> str:
    """A letter, rarely one without such an arrow: or else "nothing" would be the best guess."""
    without = sorted(set(letters) - with_arrow)
    return pick(rng, without if without and rng.random() < 0.2 else sorted(with_arrow))


def _named(letters: Iterable[str]) -> str:
    found = sorted(letters)
    return listed(found) if found else "nothing"


def _pointing_to(letters: Iterable[str]) -> str:
    """What the mark of a box or of an arrow says as its size."""
    return f"points to {_named(letters)}"


MARK_SIZES = tuple(_pointing_to(letters) for count in range(3) for letters in combinations(LETTERS, count))


def _paint(letters: list[str], arrows: list[tuple[str, str]], rng: np.random.Generator, typeface: str) -> Canvas:
    paper = background(rng, [pick(rng, ("black", "white"))])
    canvas = Canvas(paper, rng)
    turn = pick(rng, (0, 90, 180, 270)) + float(rng.uniform(-8, 8))
    centers = []
    for i in range(3):
        angle = math.radians(turn + 120 * i)
        dx, dy = (float(d) for d in rng.uniform(-0.025, 0.025, 2))
        centers.append((0.5 + 0.34 * math.cos(angle) + dx, 0.5 + 0.34 * math.sin(angle) + dy))
    places = dict(zip(letters, centers, strict=True))
    half, corner = float(rng.uniform(0.12, 0.14)), pick(rng, (0.0, 0.04, 0.13))
    is_filled, width = bool(rng.random() < 0.5), float(rng.uniform(0.028, 0.04))
    color = contrasting(paper, rng)
    ink = canvas.ink(color)
    for a, b in arrows:
        (x1, y1), (x2, y2) = places[a], places[b]
        length = math.hypot(x2 - x1, y2 - y1)
        ux, uy = (x2 - x1) / length, (y2 - y1) / length
        start, end = (x1 + 0.19 * ux, y1 + 0.19 * uy), (x2 - 0.18 * ux, y2 - 0.18 * uy)
        canvas.arrow(start, end, ink, width)
        name = f"arrow {_DIRECTIONS[round(math.degrees(math.atan2(uy, ux)) / 45) % 8]}"
        middle = ((start[0] + end[0]) / 2, (start[1] + end[1]) / 2)
        for x, y in (middle, (end[0] - 0.04 * ux, end[1] - 0.04 * uy)):
            canvas.mark(name, x, y, 0.07, 0.07, color, _pointing_to(b))
    for letter, (x, y) in places.items():
        box = contrasting(paper, rng)
        inside = canvas.ink(box)
        canvas.rectangle(x, y, half, half, inside, min(corner, half))
        its_arrows = _pointing_to(b for a, b in arrows if a == letter)
        canvas.mark(letter, x, y, half, half, box, its_arrows)
        if not is_filled:
            inside = paper
            canvas.rectangle(x, y, half - 0.022, half - 0.022, inside, max(0.0, min(corner, half) - 0.022))
        letter_color = black_or_white(inside) if is_filled else box
        canvas.text(letter.upper(), x, y, 0.16, 0.15, typeface, COLORS[letter_color], letter_color, its_arrows)
    return canvas
