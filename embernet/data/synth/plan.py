"""What is to be drawn, before anything is."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import TypeAlias, TypeVar

import numpy as np

from embernet.data.synth.canvas import Canvas
from embernet.data.synth.drawing import Question

T = TypeVar("T")


@dataclass(frozen=True)
class Plan:
    """Cheap to make, and dropped if it belongs to another split than the one that is drawn for.

    content: what decides the split. paint: draws it, in a typeface (the path of a file).
    """

    kind: str
    content: str
    caption: str
    questions: Sequence[Question]
    paint: Callable[[np.random.Generator, str], Canvas]


# Composes one of many plans of a kind. Each domain chooses a kind first and then, again and again, a plan of that kind
# until one belongs to the split: so every kind is as frequent in every split.
Compose: TypeAlias = Callable[[np.random.Generator], Plan]


def pick(rng: np.random.Generator, choices: Sequence[T]) -> T:
    """One of `choices`, all alike likely."""
    return choices[int(rng.integers(len(choices)))]


def sample(rng: np.random.Generator, choices: Sequence[T], count: int) -> list[T]:
    """`count` different ones of `choices`, in random order."""
    return [choices[i] for i in rng.permutation(len(choices))[:count]]


def yes_or_no(answer: bool) -> str:
    return "yes" if answer else "no"


def listed(names: Iterable[str]) -> str:
    """("a", "b", "c") -> "a, b and c"."""
    *firsts, last = names
    return f"{', '.join(firsts)} and {last}" if firsts else last
