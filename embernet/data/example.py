"""What every dataset is turned into: images with conversations about them."""

from dataclasses import dataclass
from typing import Protocol, TypeAlias

from embernet.runtime.image import ImageSource

Turn: TypeAlias = tuple[str, str]  # prompt, answer

# The domain of what belongs to no single expert (spec of the published model, 5.3).
GENERAL = "general"


@dataclass(frozen=True)
class Example:
    """One image and one conversation about it.

    id: unique within its source; error messages name it. image: not decoded yet; None = a text alone. domain: one of
    the experts' domains, or GENERAL. references: other right answers to the last prompt, as VQA scoring needs them.
    """

    id: str
    image: ImageSource | None
    turns: tuple[Turn, ...]
    domain: str
    references: tuple[str, ...] = ()


class ExampleSource(Protocol):
    """Examples on disk or in memory, read when asked for, in any order."""

    @property
    def name(self) -> str:
        """What error messages and statistics call it."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: int) -> Example:
        """InputError, which names the source and the example, if the record is not usable."""
