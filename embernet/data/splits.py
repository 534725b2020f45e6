"""Which examples of a dataset are trained on, and which are kept for validation."""

from collections.abc import Mapping

from embernet.data.example import Example, ExampleSource
from embernet.errors import InputError

SPLITS = ("train", "validation", "test")
_PREFIXES = {"train": ("train",), "validation": ("val", "dev"), "test": ("test",)}


class Part:
    """Neighbouring examples of a source."""

    def __init__(self, source: ExampleSource, part: range) -> None:
        self.name = source.name
        self._source = source
        self._part = part

    def __len__(self) -> int:
        return len(self._part)

    def __getitem__(self, index: int) -> Example:
        if index < 0:
            raise IndexError(index)
        return self._source[self._part[index]]


def choose_split(sources: Mapping[str, ExampleSource], split: str, train_split: str | None = None) -> ExampleSource:
    """The examples of "train", "validation" or "test" from a dataset's own splits.

    A dataset without a split for validation keeps the last 10 % of its training split for it. Some datasets publish
    no training split at all, only ones to validate or to test with: then `train_split`, else the one for validation,
    else the only one there is, is trained on. InputError if there is no such split.
    """
    if split not in SPLITS:
        raise ValueError(f"split must be one of {', '.join(SPLITS)} (found {split!r})")
    named = {kind: _named(sources, kind) for kind in SPLITS}
    only = next(iter(sources)) if len(sources) == 1 else None
    trained = named["train"] or (train_split if train_split in sources else None) or named["validation"] or only
    if split == "test":
        chosen, whole = named["test"], True
        if chosen == trained:
            chosen = None
    elif split == "validation" and named["validation"] not in (None, trained):
        chosen, whole = named["validation"], True
    else:
        chosen, whole = trained, split == "train" and named["validation"] not in (None, trained)
    if chosen is None:
        name = next(iter(sources.values())).name
        raise InputError(f"{name}: there is no split for {split} (found {', '.join(sources)})")
    source = sources[chosen]
    if whole:
        return source
    border = len(source) - len(source) // 10
    part = range(border) if split == "train" else range(border, len(source))
    if not part:
        raise InputError(f"{source.name}: {len(source)} examples are too few to keep 10 % of them for validation")
    return Part(source, part)


def _named(sources: Mapping[str, ExampleSource], kind: str) -> str | None:
    """The split that is called `kind`, or begins like it (val2014, testmini, balanced_dev has no such name)."""
    if kind in sources:
        return kind
    return next((name for name in sources if name.lower().startswith(_PREFIXES[kind])), None)
