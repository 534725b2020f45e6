"""Examples with their images decoded; what cannot be used is skipped, counted and listed, never replaced."""

from collections import Counter
from dataclasses import dataclass

from PIL import Image

from embernet.data.example import Example, ExampleSource
from embernet.errors import EmbernetError
from embernet.runtime.image import load_image


@dataclass(frozen=True)
class LoadedExample:
    """An example and its image, upright RGB of any size; None = a text alone."""

    example: Example
    image: Image.Image | None


@dataclass(frozen=True)
class Skipped:
    """An example that cannot be used. index: its place in the source; reason: one sentence."""

    source: str
    index: int
    reason: str


def load_example(source: ExampleSource, index: int) -> LoadedExample | Skipped:
    """Read one example and decode its image. Works in any process: what was skipped is returned, not remembered."""
    try:
        example = source[index]
        image = None if example.image is None else load_image(example.image).rgb
    except EmbernetError as error:
        return Skipped(source.name, index, str(error))
    return LoadedExample(example, image)


class SkipLog:
    """What was skipped, once each however often it came up, for a report at the end."""

    def __init__(self) -> None:
        self._reasons: dict[tuple[str, int], str] = {}

    def add(self, skipped: Skipped) -> None:
        self._reasons.setdefault((skipped.source, skipped.index), skipped.reason)

    def __len__(self) -> int:
        return len(self._reasons)

    def counts(self) -> dict[str, int]:
        """How many examples of each source were skipped."""
        return dict(Counter(source for source, _ in self._reasons))

    def listed(self) -> list[Skipped]:
        """All of it, by source and place."""
        return [Skipped(*place, reason) for place, reason in sorted(self._reasons.items())]
