"""Drawings with captions, questions and answers: one generator for every domain of EmberNet's experts.

`draw(split, index, seed, domain)` depends on its arguments alone. What a drawing shows decides by a hash which split it
belongs to, so that no combination of the test set is ever trained on; half of the test set is printed in a typeface
that training never sees. docs/synth.md shows and describes the domains.
"""

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from embernet.data.example import Example, Turn
from embernet.data.splits import SPLITS
from embernet.data.synth import (
    agentic_knowledge,
    agentic_reasoning,
    code_math_chart,
    code_math_formula,
    spatial_reasoning,
    spatial_scene,
    vision_diagram,
    vision_ocr,
)
from embernet.data.synth.camera import photograph
from embernet.data.synth.canvas import PLACES, ROLES
from embernet.data.synth.drawing import DESCRIBE, Attributes, Drawing, Text
from embernet.data.synth.palette import COLORS
from embernet.data.synth.plan import Plan
from embernet.data.synth.shapes import SIZES
from embernet.data.synth.splits import split_of
from embernet.data.synth.typefaces import choose_typeface
from embernet.data.synth.words import WORDS

VERSION = 4  # to be counted up with every change of any drawing
MAX_QUESTIONS = 4

_DOMAINS = {
    "vision_ocr": vision_ocr,
    "vision_diagram": vision_diagram,
    "code_math_chart": code_math_chart,
    "code_math_formula": code_math_formula,
    "spatial_scene": spatial_scene,
    "spatial_reasoning": spatial_reasoning,
    "agentic_knowledge": agentic_knowledge,
    "agentic_reasoning": agentic_reasoning,
}
DOMAINS = tuple(_DOMAINS)

ATTRIBUTES: Attributes = (
    ("", *dict.fromkeys(name for module in _DOMAINS.values() for name in module.MARK_NAMES)),
    ("", *COLORS),
    ("", *SIZES, *PLACES, *"123456789", *vision_diagram.MARK_SIZES),
    ("", *WORDS, *ROLES),
)


def draw(split: str, index: int, seed: int = 0, domain: str | None = None) -> Drawing:
    """Draw image `index` of a split, of one domain or of all in turn: then image 8 n + d is image n of domain d."""
    text, plan, rng = _prepare(split, index, seed, domain)
    canvas = plan.paint(rng, choose_typeface(rng, split))
    image, marks = photograph(canvas, rng)
    return Drawing(text.kind, text.caption, text.questions, text.domain, image, marks)


def describe(split: str, index: int, seed: int = 0, domain: str | None = None) -> Text:
    """The text of `draw`'s drawing, without the work of drawing it."""
    return _prepare(split, index, seed, domain)[0]


def _prepare(split: str, index: int, seed: int, domain: str | None) -> tuple[Text, Plan, np.random.Generator]:
    """The text of a drawing, its plan, and the random numbers to paint it with."""
    if domain is None:
        index, number = divmod(index, len(DOMAINS))
        domain = DOMAINS[number]
    rng = np.random.default_rng([seed, SPLITS.index(split), DOMAINS.index(domain), index])
    compose = _DOMAINS[domain].choose(rng)
    while split_of((plan := compose(rng)).content) != split:
        pass
    chosen = rng.permutation(len(plan.questions))[:MAX_QUESTIONS]
    return Text(plan.kind, plan.caption, tuple(plan.questions[i] for i in chosen), domain), plan, rng


def corpus() -> list[str]:
    """Texts that together hold every word of every prompt and answer; what a tokenizer is made from."""
    return [*DESCRIBE, *COLORS, "yes no and", *(text for module in _DOMAINS.values() for text in module.TEXTS)]


@dataclass(frozen=True)
class SynthDrawings:
    """A numbered series of drawings, all domains in turn or one alone."""

    attributes: ClassVar[Attributes] = ATTRIBUTES

    split: str
    seed: int = 0
    domain: str | None = None

    @property
    def identity(self) -> str:
        """Another one whenever a drawing may be another."""
        return f"{VERSION} {self}"

    def drawing(self, index: int) -> Drawing:
        return draw(self.split, index, self.seed, self.domain)


@dataclass(frozen=True)
class SynthSource:
    """The first `count` drawings of a series as examples: the caption is asked for, then what else may be asked."""

    drawings: SynthDrawings
    count: int

    @property
    def name(self) -> str:
        return f"synth {self.drawings.split}"

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: int) -> Example:
        """IndexError beyond the last."""
        if not 0 <= index < self.count:
            raise IndexError(index)
        drawing = self.drawings.drawing(index)
        return Example(f"{self.drawings.split}/{index}", drawing.image, turns_of(drawing, index), drawing.domain)


def turns_of(drawing: Drawing, index: int) -> tuple[Turn, ...]:
    """The conversation about drawing number `index`; its number decides in which words the caption is asked for."""
    describe_it = DESCRIBE[index // len(DOMAINS) % len(DESCRIBE)]
    return ((describe_it, drawing.caption), *((q.prompt, q.answer) for q in drawing.questions))
