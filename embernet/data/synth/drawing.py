"""What a generator gives: an image, what may be asked about it, and what lies where in it."""

from dataclasses import dataclass, field
from typing import TypeAlias

from PIL import Image

# The caption of a drawing answers all of these.
DESCRIBE = (
    "describe the image",
    "describe this image.",
    "describe the picture",
    "caption this image",
    "what do you see?",
    "what is this?",
    "what is in the image?",
)

# The names that marks can have, their colors, their sizes, and their roles. The first of each, "", stands for nothing.
Attributes: TypeAlias = tuple[tuple[str, ...], tuple[str, ...], tuple[str, ...], tuple[str, ...]]


@dataclass(frozen=True)
class Question:
    """kind: what is asked, "color" or "count"; questions of a kind are scored together."""

    kind: str
    prompt: str
    answer: str


@dataclass(frozen=True)
class Mark:
    """One thing in an image, a shape or a character, and the box around it: centre and half sides, in image sides.

    color, size and role are "" where they say nothing. What says most goes for the size: the value of a bar and of the
    letter below it, a character's place in its text, how many things are like this one. role: the word that a letter is
    part of, or what sets it apart ("largest", "odd").
    """

    name: str
    color: str
    size: str
    x: float
    y: float
    half_width: float
    half_height: float
    role: str = field(default="", kw_only=True)


@dataclass(frozen=True)
class Text:
    """What may be asked about a drawing. The caption answers every prompt of DESCRIBE; domain: the expert's."""

    kind: str
    caption: str
    questions: tuple[Question, ...]
    domain: str


@dataclass(frozen=True)
class Drawing(Text):
    """One image, what may be asked about it, and what lies where in it."""

    image: Image.Image
    marks: tuple[Mark, ...]
