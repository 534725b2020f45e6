"""The drawings that the built-in `spark` was trained on: one or two shapes, several alike, and numbers.

Two kinds: scenes of coloured shapes and printed numbers of up to three digits. Scenes are composed as the domains
`spatial_scene` and `spatial_reasoning` compose theirs; the camera is a simpler one.

The splits cannot overlap: a caption's hash decides which split it belongs to, so that the combinations and the numbers
of the test set are never trained on. (Numbers below 100 and captions of several things alike are too few for that;
their drawings differ instead.)
"""

import math
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFilter, ImageFont

from embernet.data.splits import SPLITS
from embernet.data.synth.drawing import DESCRIBE, Attributes, Drawing, Mark, Question
from embernet.data.synth.palette import COLORS, background, jitter
from embernet.data.synth.shapes import COUNTS, SHAPES, SIZES
from embernet.data.synth.spatial_reasoning import alike
from embernet.data.synth.spatial_scene import HOW_MANY, PLACES, one, two
from embernet.data.synth.splits import split_of
from embernet.data.synth.typefaces import typefaces

WHICH_NUMBER = (
    "what is the number?",
    "which number is this?",
    "what number is this?",
    "read the number",
    "what does it say?",
)

ATTRIBUTES: Attributes = (("", *SHAPES, *"0123456789"), ("", *COLORS), ("", *SIZES), ("",))


@dataclass(frozen=True)
class SparkDrawings:
    """A numbered series of drawings; kind: "scene", "number" or None for a mixture."""

    attributes: ClassVar[Attributes] = ATTRIBUTES

    split: str
    seed: int = 0
    kind: str | None = None

    @property
    def identity(self) -> str:
        return f"1 {self}"

    def drawing(self, index: int) -> Drawing:
        return draw(self.split, index, self.seed, self.kind)


def draw(split: str, index: int, seed: int = 0, kind: str | None = None) -> Drawing:
    """Draw image `index` of a split; `kind` is "scene", "number" or None for a mixture."""
    rng = np.random.default_rng([seed, SPLITS.index(split), index])
    kind = kind or ("number" if rng.random() < 0.42 else "scene")
    return _number(rng, split) if kind == "number" else _scene(rng, split)


def corpus() -> list[str]:
    """Texts that together hold every word of every prompt and answer; what the tokenizer is made from."""
    plurals = (*(f"{shape}s" for shape in SHAPES), "crosses")  # "crosss" too: it has a place in the vocabulary
    scene_words = [*COLORS, *SHAPES, *SIZES, *COUNTS.values(), *plurals]
    places = [place for row in PLACES for place in row]
    questions = [*DESCRIBE, *WHICH_NUMBER, *HOW_MANY, "what color is the number?", "what shape is red?"]
    questions += ["what is above the circle?", "what is below it?", "what is to the left of it?", "to the right of"]
    questions += ["is there a red circle?", "where is the circle?", "yes", "no", "one", "zero", "the number 0123456789"]
    return [*questions, *scene_words, *places, "a an and of which colors shapes picture photo in this answer:"]


def _scene(rng: np.random.Generator, split: str) -> Drawing:
    compose = (one, two, two, alike)[rng.integers(4)]
    while True:
        scene = compose(rng)
        if compose is alike or split_of(scene[0]) == split:
            break
    caption, things, questions = scene
    paper, shading = background(rng, [thing.color for thing in things], 105), _shading(rng)
    side = int(rng.integers(96, 161))
    canvas = Image.new("RGB", (2 * side, 2 * side), paper)
    pen = ImageDraw.Draw(canvas)
    for thing in things:
        fill = jitter(COLORS[thing.color], 14, rng)
        pen.polygon([(x * 2 * side, y * 2 * side) for x, y in thing.corners(rng)], fill=fill)
    return Drawing(
        kind="scene",
        caption=caption,
        questions=tuple(questions),
        domain="spatial_reasoning" if len(things) > 2 else "spatial_scene",
        image=_photograph(canvas.resize((side, side), Image.Resampling.BOX), shading, rng),
        marks=tuple(thing.mark for thing in things),
    )


def _number(rng: np.random.Generator, split: str) -> Drawing:
    digits = int(rng.choice([1, 2, 3], p=[0.15, 0.25, 0.6]))
    while True:
        text = str(rng.integers(10 ** (digits - 1) if digits > 1 else 0, 10**digits))
        if digits < 3 or split_of(text) == split:
            break
    ink_name = str(rng.choice(list(COLORS)))
    paper, shading = background(rng, [ink_name], 105), _shading(rng)
    side = int(rng.integers(96, 161))
    fonts = typefaces("test" if split == "test" and rng.random() < 0.5 else "train")
    size = side * float(rng.uniform(0.30, 0.52))
    while True:
        font = ImageFont.truetype(fonts[rng.integers(len(fonts))], size)
        left, top, right, bottom = font.getbbox(text)
        if right - left < 0.9 * side:
            break
        size *= 0.9
    canvas = Image.new("RGB", (side, side), paper)
    x = rng.uniform(0.04, max(0.05, 0.96 - (right - left) / side)) * side - left
    y = rng.uniform(0.04, max(0.05, 0.96 - (bottom - top) / side)) * side - top
    ImageDraw.Draw(canvas).text((x, y), text, fill=jitter(COLORS[ink_name], 14, rng), font=font)
    if rng.random() < 0.5:
        canvas = canvas.rotate(float(rng.uniform(-5, 5)), Image.Resampling.BILINEAR, fillcolor=paper)
    marks = []
    for i, digit in enumerate(text):  # the slight rotation is ignored
        start, end = x + font.getlength(text[:i]), x + font.getlength(text[: i + 1])
        box = [v / side / 2 for v in (start + end, 2 * y + top + bottom, end - start, bottom - top)]
        marks.append(Mark(digit, ink_name, "large", *box))
    questions = [Question("number", str(prompt), text) for prompt in rng.permutation(WHICH_NUMBER)[:2]]
    questions.append(Question("color", "what color is the number?", ink_name))
    return Drawing(
        kind="number",
        caption=f"the number {text}",
        questions=tuple(questions),
        domain="vision_ocr",
        image=_photograph(canvas, shading, rng),
        marks=tuple(marks),
    )


def _shading(rng: np.random.Generator) -> float:
    return float(rng.choice([0, 0, rng.uniform(5, 35)]))


def _photograph(image: Image.Image, shading: float, rng: np.random.Generator) -> Image.Image:
    """Uneven light, blur and noise, each on part of the drawings."""
    if rng.random() < 0.2:
        image = image.filter(ImageFilter.GaussianBlur(float(rng.uniform(0.3, 0.9)) * image.width / 128))
    noise = float(rng.uniform(2, 14)) if rng.random() < 0.4 else 0.0
    if not (shading or noise):
        return image
    pixels: NDArray[np.floating] = np.asarray(image, np.float32)
    if shading:
        angle = rng.uniform(0, 2 * math.pi)
        ramp = np.linspace(-1, 1, image.width, dtype=np.float32)
        shade = math.cos(angle) * ramp[None, :] + math.sin(angle) * ramp[:, None]
        pixels = pixels + shading * shade[..., None]
    if noise:
        pixels = pixels + noise * rng.standard_normal(pixels.shape, np.float32)
    return Image.fromarray(np.clip(pixels, 0, 255).astype(np.uint8))
