"""From example sources to batches: split, read, encoded, and what cannot be read replaced and listed.

Sources are read example by example when they are needed, so that a dataset may be larger than memory.
"""

import bisect
import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from embernet.data.example import Example, ExampleSource
from embernet.errors import InputError
from embernet.models.embernet.model import IGNORED_LABEL
from embernet.runtime.bundle import ImageFormat
from embernet.runtime.image import load_image, preprocess
from embernet.training.batches import ConversationEncoder, EncodedConversation
from embernet.training.objective import NO_EXPERT, Batch

# After so many unusable examples in a row something is wrong with the data as a whole.
_MAX_UNUSABLE = 100


@dataclass(frozen=True)
class Slice:
    """Examples start .. stop-1 of a source."""

    source: ExampleSource
    start: int
    stop: int


def split_sources(
    sources: Sequence[ExampleSource], validation_fraction: float, limit: int | None = None
) -> tuple[list[Slice], list[Slice]]:
    """What to train on, and the end of every source, which is held out. limit: most examples of a source."""
    training, validation = [], []
    for source in sources:
        size = len(source) if limit is None else min(limit, len(source))
        held_out = int(size * validation_fraction)
        if size - held_out > 0:
            training.append(Slice(source, 0, size - held_out))
        if held_out > 0:
            validation.append(Slice(source, size - held_out, size))
    return training, validation


@dataclass(frozen=True)
class Row:
    """One example, ready. pixel_values (3, S, S); unusable: what it stands in for, and why."""

    pixel_values: Tensor
    has_image: bool
    conversation: EncodedConversation
    expert: int
    unusable: tuple[str, ...]


@dataclass(frozen=True)
class Loaded:
    """A batch and the errors of the examples that others stand in for."""

    batch: Batch
    unusable: tuple[str, ...]


class Examples(Dataset[Row]):
    """The examples of several slices, numbered through, encoded for a model."""

    def __init__(self, slices: Sequence[Slice], encoder: ConversationEncoder, max_text_tokens: int) -> None:
        self.slices = slices
        self.encoder = encoder
        self._ends = list(itertools.accumulate(part.stop - part.start for part in slices))
        config = encoder.config
        self._max_tokens = min(max_text_tokens, config.max_position_embeddings - config.num_image_tokens)
        half = (0.5, 0.5, 0.5)  # as the exporter tells the runtime
        self._format = ImageFormat(config.image_size, config.resample, mean=half, std=half)

    def __len__(self) -> int:
        return self._ends[-1] if self._ends else 0

    def domains(self) -> tuple[list[str], NDArray[np.int64]]:
        """Names, and for every example the number of its own; a source counts for the domain of its first example."""
        of_slice = [part.source[part.start].domain for part in self.slices]
        names = sorted(set(of_slice))
        sizes = [part.stop - part.start for part in self.slices]
        return names, np.repeat([names.index(domain) for domain in of_slice], sizes)

    def __getitem__(self, index: int) -> Row:
        """The example, or, where it is unusable, the next one of its source that is not."""
        part, offset = self._find(index)
        size = part.stop - part.start
        unusable: list[str] = []
        for attempt in range(min(size, _MAX_UNUSABLE)):
            try:
                return self._read(part.source[part.start + (offset + attempt) % size], unusable)
            except InputError as error:
                unusable.append(str(error))
        raise InputError(f"{part.source.name}: {len(unusable)} unusable examples in a row, the last: {unusable[-1]}")

    def text_tokens(self, index: int) -> int:
        """Length of an example's text as the model reads it; its image is not opened."""
        part, offset = self._find(index)
        turns = part.source[part.start + offset].turns
        return min(len(self.encoder.conversation(turns)[0]), self._max_tokens)

    def _find(self, index: int) -> tuple[Slice, int]:
        """The slice that holds an example, and its place there."""
        number = bisect.bisect_right(self._ends, index)
        part = self.slices[number]
        return part, index - (self._ends[number] - (part.stop - part.start))

    def _read(self, example: Example, unusable: Sequence[str]) -> Row:
        config = self.encoder.config
        if not example.turns:
            raise InputError(f"{example.id}: no text")
        ids, targets = self.encoder.conversation(example.turns)
        ids, targets = ids[: self._max_tokens], targets[: self._max_tokens]
        if all(target == IGNORED_LABEL for target in targets):
            raise InputError(f"{example.id}: no answer within the first {self._max_tokens} tokens")
        size = self._format.size
        pixel_values = torch.zeros(3, size, size)
        if example.image is not None:
            try:
                image = load_image(example.image)
            except InputError as error:
                raise InputError(f"{example.id}: {error}") from None
            pixel_values = torch.from_numpy(preprocess(image.rgb, self._format))[0]
        domains = config.expert_domains
        expert = domains.index(example.domain) if example.domain in domains else NO_EXPERT
        return Row(pixel_values, example.image is not None, (ids, targets), expert, tuple(unusable))

    def collate(self, rows: Sequence[Row]) -> Loaded:
        batch = Batch(
            pixel_values=torch.stack([row.pixel_values for row in rows]),
            has_image=torch.tensor([row.has_image for row in rows]),
            experts=torch.tensor([row.expert for row in rows]),
            text=self.encoder.pad([[row.conversation] for row in rows]),
        )
        return Loaded(batch, tuple(itertools.chain.from_iterable(row.unusable for row in rows)))

    def load(self, batches: Sequence[Sequence[int]], num_workers: int) -> Iterator[Loaded]:
        """The batches with these examples, in this order, prepared ahead by `num_workers` processes."""
        loader = DataLoader(
            self, batch_sampler=batches, collate_fn=self.collate, num_workers=min(num_workers, len(batches))
        )
        return iter(loader)
