"""Images drawn by a program, with captions, questions and answers: what the built-in `spark` model is trained on.

Two kinds of drawing: scenes of coloured shapes (one, two in a relation, or several alike) and printed numbers of up
to three digits. `draw(split, index, seed)` depends on its arguments alone.

The splits cannot overlap: a caption's hash decides which split it belongs to, so that the combinations and the numbers
of the test set are never trained on. (Numbers below 100 and captions of several things alike are too few for that;
their drawings differ instead.)
The test set also prints with a typeface that training never sees.
"""

import functools
import hashlib
import importlib.util
import math
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFilter, ImageFont

from embernet.errors import MissingExtraError

COLORS = {
    "red": (214, 40, 40),
    "green": (46, 150, 60),
    "blue": (40, 80, 210),
    "yellow": (245, 215, 40),
    "orange": (245, 135, 25),
    "purple": (130, 50, 170),
    "black": (20, 20, 20),
    "white": (250, 250, 250),
}
SHAPES = ("circle", "square", "triangle", "star", "heart", "cross")
SIZES = {"small": (0.09, 0.13), "large": (0.18, 0.23)}  # radius in image sides
PLACES = (
    ("in the top left", "at the top", "in the top right"),
    ("on the left", "in the center", "on the right"),
    ("in the bottom left", "at the bottom", "in the bottom right"),
)
COUNTS = {2: "two", 3: "three", 4: "four", 5: "five", 6: "six"}
SPLITS = ("train", "validation", "test")

DESCRIBE = (
    "describe the image",
    "describe this image.",
    "describe the picture",
    "caption this image",
    "what do you see?",
    "what is this?",
    "what is in the image?",
)
WHICH_NUMBER = (
    "what is the number?",
    "which number is this?",
    "what number is this?",
    "read the number",
    "what does it say?",
)
HOW_MANY = ("how many objects are there?", "how many shapes are there?", "count the objects")

# (package, used for): the [train] extra installs these typefaces.
_FONT_PACKAGES = {
    "font_caladea": "train",
    "font_fredoka_one": "train",
    "font_manrope": "train",
    "font_source_sans_pro": "train",
    "font_source_serif_pro": "train",
    "font_hanken_grotesk": "test",
}


@dataclass(frozen=True)
class Question:
    """kind: "color", "shape", "place", "relation", "count", "exists" or "number"."""

    kind: str
    prompt: str
    answer: str


@dataclass(frozen=True)
class Mark:
    """One thing in an image, a shape or a digit, and the box around it: centre and half sides, in image sides."""

    name: str
    color: str
    size: str
    x: float
    y: float
    half_width: float
    half_height: float


@dataclass(frozen=True)
class Drawing:
    """One image with what may be asked about it. The caption answers every prompt of DESCRIBE."""

    kind: str
    image: Image.Image
    caption: str
    questions: tuple[Question, ...]
    domain: str
    marks: tuple[Mark, ...]


@dataclass(frozen=True)
class _Thing:
    """A shape to draw: centre and radius in image sides."""

    size: str
    color: str
    shape: str
    x: float
    y: float
    radius: float

    @property
    def name(self) -> str:
        return f"{self.size} {self.color} {self.shape}"

    @property
    def mark(self) -> Mark:
        return Mark(self.shape, self.color, self.size, self.x, self.y, self.radius, self.radius)


def draw(split: str, index: int, seed: int = 0, kind: str | None = None) -> Drawing:
    """Draw image `index` of a split; `kind` is "scene", "number" or None for a mixture."""
    rng = np.random.default_rng([seed, SPLITS.index(split), index])
    kind = kind or ("number" if rng.random() < 0.42 else "scene")
    return _number(rng, split) if kind == "number" else _scene(rng, split)


def corpus() -> list[str]:
    """Texts that together hold every word of every prompt and answer; what the tokenizer is made from."""
    scene_words = [*COLORS, *SHAPES, *SIZES, *COUNTS.values(), *(f"{shape}s" for shape in SHAPES), "crosses"]
    places = [place for row in PLACES for place in row]
    questions = [*DESCRIBE, *WHICH_NUMBER, *HOW_MANY, "what color is the number?", "what shape is red?"]
    questions += ["what is above the circle?", "what is below it?", "what is to the left of it?", "to the right of"]
    questions += ["is there a red circle?", "where is the circle?", "yes", "no", "one", "zero", "the number 0123456789"]
    return [*questions, *scene_words, *places, "a an and of which colors shapes picture photo in this answer:"]


def _belongs(caption: str, split: str) -> bool:
    """Whether a caption belongs to a split: 5 % validation, 10 % test, by hash."""
    share = hashlib.sha256(caption.encode()).digest()[0] / 256
    return split == ("test" if share < 0.10 else "validation" if share < 0.15 else "train")


# --- scenes ---------------------------------------------------------------------------------------------------------


def _scene(rng: np.random.Generator, split: str) -> Drawing:
    compose = (_one, _two, _two, _several)[rng.integers(4)]
    while True:
        scene = compose(rng)
        if compose is _several or _belongs(scene[0], split):
            break
    caption, things, questions = scene
    background, texture = _background(rng, [thing.color for thing in things])
    side = int(rng.integers(96, 161))
    canvas = Image.new("RGB", (2 * side, 2 * side), background)
    pen = ImageDraw.Draw(canvas)
    for thing in things:
        _draw_thing(pen, thing, 2 * side, rng)
    image = _photograph(canvas.resize((side, side), Image.Resampling.BOX), texture, rng)
    domain = "spatial_reasoning" if len(things) > 2 else "spatial_scene"
    return Drawing("scene", image, caption, tuple(questions), domain, tuple(thing.mark for thing in things))


def _pick(rng: np.random.Generator, size: str | None = None) -> tuple[str, str, str, float]:
    size = size or str(rng.choice(list(SIZES)))
    low, high = SIZES[size]
    return size, str(rng.choice(list(COLORS))), str(rng.choice(SHAPES)), float(rng.uniform(low, high))


def _one(rng: np.random.Generator) -> tuple[str, list[_Thing], list[Question]]:
    size, color, shape, radius = _pick(rng)
    row, column = rng.integers(3), rng.integers(3)
    x, y = (float(np.clip((c + 0.5) / 3 + rng.uniform(-0.06, 0.06), radius, 1 - radius)) for c in (column, row))
    thing, place = _Thing(size, color, shape, x, y, radius), PLACES[row][column]
    questions = [
        Question("color", f"what color is the {shape}?", color),
        Question("shape", f"what shape is {color}?", shape),
        Question("place", f"where is the {shape}?", place),
        Question("count", str(rng.choice(HOW_MANY)), "one"),
        _is_there(rng, [thing]),
    ]
    return f"a {thing.name} {place}", [thing], questions


def _two(rng: np.random.Generator) -> tuple[str, list[_Thing], list[Question]]:
    first, second = _pick(rng), _pick(rng)
    while first[1:3] == second[1:3]:
        second = _pick(rng)
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
    a, b = _Thing(*first[:3], x1, y1, r1), _Thing(*second[:3], x2, y2, r2)
    before, after = ("above", "below") if vertical else ("to the left of", "to the right of")
    same_shape, same_color = a.shape == b.shape, a.color == b.color
    a_name, b_name = (f"{t.color} {t.shape}" if same_shape else t.shape for t in (a, b))
    questions = [
        Question("relation", f"what is {before} the {b_name}?", f"a {a.name}"),
        Question("relation", f"what is {after} the {a_name}?", f"a {b.name}"),
        Question("count", str(rng.choice(HOW_MANY)), "two"),
        _is_there(rng, [a, b]),
    ]
    if not same_shape:
        questions += [Question("color", f"what color is the {t.shape}?", t.color) for t in (a, b)]
    if not same_color:
        questions += [Question("shape", f"what shape is {t.color}?", t.shape) for t in (a, b)]
    return f"a {a.name} {before} a {b.name}", [a, b], questions


def _several(rng: np.random.Generator) -> tuple[str, list[_Thing], list[Question]]:
    _, color, shape, _ = _pick(rng)
    count = int(rng.integers(2, 7))
    centres: list[tuple[float, float]] = []
    radius = float(rng.uniform(0.07, 0.11))
    while len(centres) < count:  # six circles of this size always leave room for another try
        x, y = (float(c) for c in rng.uniform(radius, 1 - radius, 2))
        if all(math.hypot(x - cx, y - cy) > 2.3 * radius for cx, cy in centres):
            centres.append((x, y))
    things = [_Thing("small", color, shape, x, y, radius) for x, y in centres]
    plural = "crosses" if shape == "cross" else f"{shape}s"
    questions = [
        Question("count", f"how many {plural} are there?", COUNTS[count]),
        Question("count", str(rng.choice(HOW_MANY)), COUNTS[count]),
        Question("color", f"what color are the {plural}?", color),
        Question("shape", f"what shape is {color}?", shape),
        _is_there(rng, things),
    ]
    return f"{COUNTS[count]} {color} {plural}", things, questions


def _is_there(rng: np.random.Generator, things: list[_Thing]) -> Question:
    """A yes/no question that is true half of the time; a false one is near: it changes the colour or the shape."""
    thing = things[rng.integers(len(things))]
    color, shape = thing.color, thing.shape
    yes = bool(rng.random() < 0.5)
    while not yes and any((t.color, t.shape) == (color, shape) for t in things):
        if rng.random() < 0.5:
            color = str(rng.choice(list(COLORS)))
        else:
            shape = str(rng.choice(SHAPES))
    article = "an" if color == "orange" else "a"
    return Question("exists", f"is there {article} {color} {shape}?", "yes" if yes else "no")


def _draw_thing(pen: ImageDraw.ImageDraw, thing: _Thing, side: int, rng: np.random.Generator) -> None:
    fill = _jitter(COLORS[thing.color], 14, rng)
    turn = math.radians(float(rng.uniform(-14, 14)))
    corners = [
        (
            (thing.x + thing.radius * (px * math.cos(turn) - py * math.sin(turn))) * side,
            (thing.y + thing.radius * (px * math.sin(turn) + py * math.cos(turn))) * side,
        )
        for px, py in _outline(thing.shape)
    ]
    pen.polygon(corners, fill=fill)


@functools.cache
def _outline(shape: str) -> tuple[tuple[float, float], ...]:
    """The corners of a shape that fits the unit circle, y downwards."""

    def on_circle(count: int, start: float = -90.0, radii: tuple[float, ...] = (1.0,)) -> list[tuple[float, float]]:
        angles = [math.radians(start + 360 * i / count) for i in range(count)]
        return [
            (radii[i % len(radii)] * math.cos(a), radii[i % len(radii)] * math.sin(a)) for i, a in enumerate(angles)
        ]

    if shape == "circle":
        return tuple(on_circle(48))
    if shape == "square":
        return tuple(on_circle(4, start=-45))
    if shape == "triangle":
        return tuple(on_circle(3))
    if shape == "star":
        return tuple(on_circle(10, radii=(1.0, 0.42)))
    if shape == "heart":
        angles = [2 * math.pi * i / 48 for i in range(48)]
        return tuple(
            (
                math.sin(a) ** 3,
                -(13 * math.cos(a) - 5 * math.cos(2 * a) - 2 * math.cos(3 * a) - math.cos(4 * a)) / 17,
            )
            for a in angles
        )
    w = 0.32  # cross: half the width of a bar
    quarter = [(-w, -1.0), (w, -1.0), (w, -w), (1.0, -w), (1.0, w), (w, w), (w, 1.0), (-w, 1.0), (-w, w), (-1.0, w)]
    return (*quarter, (-1.0, -w), (-w, -w))


# --- numbers --------------------------------------------------------------------------------------------------------


def _number(rng: np.random.Generator, split: str) -> Drawing:
    digits = int(rng.choice([1, 2, 3], p=[0.15, 0.25, 0.6]))
    while True:
        text = str(rng.integers(10 ** (digits - 1) if digits > 1 else 0, 10**digits))
        if digits < 3 or _belongs(text, split):
            break
    ink_name = str(rng.choice(list(COLORS)))
    background, texture = _background(rng, [ink_name])
    side = int(rng.integers(96, 161))
    fonts = _fonts("test" if split == "test" and rng.random() < 0.5 else "train")
    size = side * float(rng.uniform(0.30, 0.52))
    while True:
        font = ImageFont.truetype(fonts[rng.integers(len(fonts))], size)
        left, top, right, bottom = font.getbbox(text)
        if right - left < 0.9 * side:
            break
        size *= 0.9
    canvas = Image.new("RGB", (side, side), background)
    x = rng.uniform(0.04, max(0.05, 0.96 - (right - left) / side)) * side - left
    y = rng.uniform(0.04, max(0.05, 0.96 - (bottom - top) / side)) * side - top
    ImageDraw.Draw(canvas).text((x, y), text, fill=_jitter(COLORS[ink_name], 14, rng), font=font)
    if rng.random() < 0.5:
        canvas = canvas.rotate(float(rng.uniform(-5, 5)), Image.Resampling.BILINEAR, fillcolor=background)
    marks = []
    for i, digit in enumerate(text):  # the slight rotation is ignored
        start, end = x + font.getlength(text[:i]), x + font.getlength(text[: i + 1])
        box = [v / side / 2 for v in (start + end, 2 * y + top + bottom, end - start, bottom - top)]
        marks.append(Mark(digit, ink_name, "large", *box))
    questions = [Question("number", str(prompt), text) for prompt in rng.permutation(WHICH_NUMBER)[:2]]
    questions.append(Question("color", "what color is the number?", ink_name))
    image = _photograph(canvas, texture, rng)
    return Drawing("number", image, f"the number {text}", tuple(questions), "vision_ocr", tuple(marks))


@functools.cache
def _fonts(split: str) -> list[str]:
    """Paths of the typefaces of a split ("train" or "test"), sorted by name."""
    paths: list[Path] = []
    for package, used_for in _FONT_PACKAGES.items():
        if used_for != split:
            continue
        spec = importlib.util.find_spec(package)
        if spec is None or not spec.submodule_search_locations:
            raise MissingExtraError(
                f"the typeface package {package.replace('_', '-')!r} is not installed",
                hint="pip install 'embernet[train]'",
            )
        files = Path(spec.submodule_search_locations[0]) / "files"
        paths += [p for p in files.iterdir() if p.suffix in (".ttf", ".otf")]
    # Hairline weights vanish at 96 pixels; a TrueType twin of an OpenType file adds nothing.
    wanted = [p for p in paths if "ExtraLight" not in p.name and "Variable" not in p.name]
    return [str(p) for p in sorted(wanted, key=lambda p: p.name)]


# --- paper, light and camera ----------------------------------------------------------------------------------------


def _jitter(color: tuple[int, int, int], amount: float, rng: np.random.Generator) -> tuple[int, int, int]:
    r, g, b = np.clip(np.asarray(color) + rng.uniform(-amount, amount, 3), 0, 255).astype(int).tolist()
    return r, g, b


def _background(rng: np.random.Generator, colors: list[str]) -> tuple[tuple[int, int, int], float]:
    """A background that none of `colors` drowns in, and the strength of its shading."""
    inks = np.array([COLORS[name] for name in colors])
    while True:
        if rng.random() < 0.8:  # mostly paper, grey or dark; sometimes any colour
            base = np.full(3, rng.choice([rng.uniform(205, 255), rng.uniform(90, 205), rng.uniform(0, 60)]))
            base = base + rng.uniform(-12, 12, 3)
        else:
            base = rng.uniform(0, 255, 3)
        base = np.clip(base, 0, 255)
        if np.abs(inks - base).max(axis=1).min() > 105:
            r, g, b = base.astype(int).tolist()
            return (r, g, b), float(rng.choice([0, 0, rng.uniform(5, 35)]))


def _photograph(image: Image.Image, texture: float, rng: np.random.Generator) -> Image.Image:
    """Uneven light, blur and noise, each on part of the drawings."""
    if rng.random() < 0.2:
        image = image.filter(ImageFilter.GaussianBlur(float(rng.uniform(0.3, 0.9)) * image.width / 128))
    noise = float(rng.uniform(2, 14)) if rng.random() < 0.4 else 0.0
    if not (texture or noise):
        return image
    pixels: NDArray[np.floating] = np.asarray(image, np.float32)
    if texture:
        angle = rng.uniform(0, 2 * math.pi)
        ramp = np.linspace(-1, 1, image.width, dtype=np.float32)
        shade = math.cos(angle) * ramp[None, :] + math.sin(angle) * ramp[:, None]
        pixels = pixels + texture * shade[..., None]
    if noise:
        pixels = pixels + noise * rng.standard_normal(pixels.shape, np.float32)
    return Image.fromarray(np.clip(pixels, 0, 255).astype(np.uint8))
