"""What a model is asked: images with questions and right answers, from a dataset or from drawings."""

import contextlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
from PIL import Image

from embernet.data.domains import DOMAINS
from embernet.data.example import Example, ExampleSource
from embernet.data.loading import Skipped, load_example
from embernet.data.prepared import prepared_datasets
from embernet.data.scores import Item, best_guesses, items_of, most_common_answers
from embernet.data.sources import open_data_dir
from embernet.data.synth.drawing import Drawing, Text
from embernet.errors import InputError

SYNTH = "synth"
DEFAULT_DRAWINGS = 1000
_GUESSED_FROM = 8000  # drawings, or examples of a dataset


@dataclass(frozen=True)
class Probe:
    """One prompt about an image. kind: probes of a kind are scored together; answers: all right ones, by annotator."""

    kind: str | None
    prompt: str
    answers: tuple[str, ...]


@dataclass(frozen=True)
class Sample:
    """An image, upright RGB of any size, and what is asked about it."""

    id: str
    image: Image.Image
    domain: str
    probes: tuple[Probe, ...]


class SampleSource(Protocol):
    """Samples that are read or drawn when asked for."""

    @property
    def name(self) -> str: ...

    def __len__(self) -> int: ...

    def __getitem__(self, index: int) -> Sample | Skipped: ...

    def guesses(self) -> Mapping[str, str]:
        """The most common training answers, as `most_common_answers`; empty without training data at hand."""
        ...


class DrawnSamples:
    """Drawings; everything that may be asked about one is asked."""

    def __init__(
        self, name: str, draw: Callable[[int], Drawing], count: int, training: Callable[[], Iterable[Text]]
    ) -> None:
        self.name = name
        self._draw = draw
        self._count = count
        self._training = training

    def __len__(self) -> int:
        return self._count

    def __getitem__(self, index: int) -> Sample | Skipped:
        drawing = self._draw(index)
        probes = [Probe(item.kind, item.prompt, (item.answer,)) for item in items_of([drawing])]
        return Sample(f"{self.name}/{index}", drawing.image, drawing.domain, tuple(probes))

    def guesses(self) -> Mapping[str, str]:
        return best_guesses(self._training())


class DatasetSamples:
    """Examples of a dataset. Every prompt of a conversation is asked as if it were the first.

    training: what blind guesses are counted in. domains: of these alone; count: so many, spread over the dataset.
    """

    def __init__(
        self, source: ExampleSource, training: ExampleSource | None, domains: Sequence[str], count: int | None
    ) -> None:
        self.name = source.name
        self._source = source
        self._training = training
        indices = [i for i in range(len(source)) if not domains or _has_domain(source, i, domains)]
        self._indices = _spread(indices, count)

    def __len__(self) -> int:
        return len(self._indices)

    def __getitem__(self, index: int) -> Sample | Skipped:
        place = self._indices[index]
        loaded = load_example(self._source, place)
        if isinstance(loaded, Skipped):
            return loaded
        if loaded.image is None:
            return Skipped(self.name, place, f"{loaded.example.id}: there is no image to ask about")
        return Sample(loaded.example.id, loaded.image, loaded.example.domain, tuple(_probes(loaded.example)))

    def guesses(self) -> Mapping[str, str]:
        return most_common_answers(self._training_items())

    def _training_items(self) -> Iterator[Item]:
        if self._training is None:
            return
        for index in _spread(range(len(self._training)), _GUESSED_FROM):
            with contextlib.suppress(InputError):  # what training would skip
                example = self._training[index]
                for probe in _probes(example):
                    yield Item(index, example.domain, probe.prompt, probe.answers[0])


def open_samples(data: str, split: str, domains: Sequence[str], count: int | None) -> list[SampleSource]:
    """What `data` names: "synth" (drawings), a dataset or a data directory.

    domains: empty = all. count: samples of each source; None = all, or DEFAULT_DRAWINGS. InputError for a domain that
    does not exist and for data that cannot be opened.
    """
    for domain in domains:
        if domain not in DOMAINS:
            raise InputError(f"no such domain (found {domain!r}, expected one of {', '.join(DOMAINS)})")
    if data == SYNTH:
        return [_drawings(split, domains, count or DEFAULT_DRAWINGS)]
    path = Path(data)
    training: dict[str, ExampleSource] = {}
    with contextlib.suppress(InputError):  # some datasets are only for testing
        training = {source.name: source for source in _open(path, "train")}
    sources: list[SampleSource] = [
        DatasetSamples(source, training.get(source.name), domains, count) for source in _open(path, split)
    ]
    if not any(map(len, sources)):
        raise InputError(f"{data}: holds no examples of {', '.join(domains) or 'any domain'}")
    return sources


def _open(path: Path, split: str) -> list[ExampleSource]:
    stages = sorted({dataset.stage for dataset in prepared_datasets(path)}) if path.is_dir() else []
    return [source for stage in stages or [1] for source in open_data_dir(path, stage, split)]


def _drawings(split: str, domains: Sequence[str], count: int) -> SampleSource:
    from embernet.data.synth import DOMAINS as DRAWN
    from embernet.data.synth import describe, draw

    if unknown := set(domains) - set(DRAWN):
        raise InputError(f"{SYNTH} has no drawings of {', '.join(sorted(unknown))}")
    chosen = [domain for domain in DRAWN if not domains or domain in domains]

    def place(index: int) -> tuple[int, str]:
        return index // len(chosen), chosen[index % len(chosen)]

    def drawn(index: int) -> Drawing:
        number, domain = place(index)
        return draw(split, number, domain=domain)

    def training() -> Iterator[Text]:
        for index in range(_GUESSED_FROM):
            number, domain = place(index)
            yield describe("train", number, domain=domain)

    return DrawnSamples(f"{SYNTH} {split}", drawn, count, training)


def _probes(example: Example) -> Iterator[Probe]:
    """The references are other answers to the last prompt."""
    for number, (prompt, answer) in enumerate(example.turns, start=1):
        others = example.references if number == len(example.turns) else ()
        yield Probe(None, prompt, (answer, *others))


def _has_domain(source: ExampleSource, index: int, domains: Sequence[str]) -> bool:
    """What cannot be read is kept, to be listed as skipped."""
    try:
        return source[index].domain in domains
    except InputError:
        return True


def _spread(indices: Sequence[int], count: int | None) -> list[int]:
    """So many of them at even distances, or all."""
    if count is None or count >= len(indices):
        return [*indices]
    return [indices[i] for i in np.linspace(0, len(indices) - 1, count).astype(int)]
