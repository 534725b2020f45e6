"""From example sources to batches: read, encoded for a model, and what cannot be used left out and named.

Sources are read example by example when they are needed, so that a dataset may be larger than memory.
"""

import bisect
import itertools
import signal
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from embernet.data.example import ExampleSource
from embernet.data.loading import LoadedExample, Skipped, load_example
from embernet.data.splits import Part
from embernet.errors import InputError
from embernet.models.embernet.model import IGNORED_LABEL
from embernet.runtime.bundle import ImageFormat
from embernet.runtime.image import preprocess
from embernet.training.batches import ConversationEncoder, EncodedConversation
from embernet.training.objective import NO_EXPERT, Batch

# After so many unusable examples in a row something is wrong with the data as a whole.
_MAX_SKIPPED = 100
_FROM_WORKER = "Caught InputError in DataLoader worker"


@dataclass(frozen=True)
class Row:
    """One example, ready. pixel_values (3, S, S); skipped: what it stands in for."""

    pixel_values: Tensor
    has_image: bool
    conversation: EncodedConversation
    expert: int
    skipped: tuple[Skipped, ...]


@dataclass(frozen=True)
class LoadedBatch:
    """A batch, and the examples that others stand in for."""

    batch: Batch
    skipped: tuple[Skipped, ...]


class Examples(Dataset[Row]):
    """The examples of several sources, numbered through, encoded for a model.

    limit: most examples of a source. max_text_tokens: a longer conversation is cut there.
    """

    def __init__(
        self,
        sources: Sequence[ExampleSource],
        encoder: ConversationEncoder,
        max_text_tokens: int,
        limit: int | None = None,
    ) -> None:
        self._sources = [s if limit is None else Part(s, range(min(limit, len(s)))) for s in sources]
        self._ends = list(itertools.accumulate(len(source) for source in self._sources))
        self._encoder = encoder
        config = encoder.config
        self._max_tokens = min(max_text_tokens, config.max_position_embeddings - config.num_image_tokens)
        half = (0.5, 0.5, 0.5)  # as the exporter tells the runtime
        self._format = ImageFormat(config.image_size, config.resample, mean=half, std=half)

    def __len__(self) -> int:
        return self._ends[-1] if self._ends else 0

    def domains(self) -> tuple[list[str], NDArray[np.int64]]:
        """Names, and for every example the number of its own; a source counts for the domain of its first example."""
        of_source = [_domain(source) for source in self._sources]
        names = sorted(set(of_source))
        sizes = [len(source) for source in self._sources]
        return names, np.repeat([names.index(domain) for domain in of_source], sizes)

    def text_tokens(self, index: int) -> int:
        """Length of an example's text as the model reads it; its image is not opened."""
        source, place = self._find(index)
        return min(len(self._encoder.conversation(source[place].turns)[0]), self._max_tokens)

    def __getitem__(self, index: int) -> Row:
        """The example, or, where it is unusable, the next one of its source that is not."""
        source, place = self._find(index)
        skipped: list[Skipped] = []
        for attempt in range(min(len(source), _MAX_SKIPPED)):
            result = self._read(source, (place + attempt) % len(source), skipped)
            if isinstance(result, Row):
                return result
            skipped.append(result)
        raise InputError(f"{source.name}: {len(skipped)} unusable examples in a row, the last: {skipped[-1].reason}")

    def _find(self, index: int) -> tuple[ExampleSource, int]:
        """The source that holds an example, and its place there."""
        number = bisect.bisect_right(self._ends, index)
        return self._sources[number], index - (self._ends[number] - len(self._sources[number]))

    def _read(self, source: ExampleSource, place: int, skipped: Sequence[Skipped]) -> Row | Skipped:
        loaded = load_example(source, place)
        if not isinstance(loaded, LoadedExample):
            return loaded
        ids, targets = self._encoder.conversation(loaded.example.turns)
        ids, targets = ids[: self._max_tokens], targets[: self._max_tokens]
        if all(target == IGNORED_LABEL for target in targets):
            reason = f"{loaded.example.id}: no answer within the first {self._max_tokens} tokens"
            return Skipped(source.name, place, reason)
        size = self._format.size
        pixel_values = torch.zeros(3, size, size)
        if loaded.image is not None:
            pixel_values = torch.from_numpy(preprocess(loaded.image, self._format))[0]
        domains, domain = self._encoder.config.expert_domains, loaded.example.domain
        expert = domains.index(domain) if domain in domains else NO_EXPERT
        return Row(pixel_values, loaded.image is not None, (ids, targets), expert, tuple(skipped))

    def collate(self, rows: Sequence[Row]) -> LoadedBatch:
        batch = Batch(
            pixel_values=torch.stack([row.pixel_values for row in rows]),
            has_image=torch.tensor([row.has_image for row in rows]),
            experts=torch.tensor([row.expert for row in rows]),
            text=self._encoder.pad([[row.conversation] for row in rows]),
        )
        return LoadedBatch(batch, tuple(itertools.chain.from_iterable(row.skipped for row in rows)))

    @contextmanager
    def load(self, batches: Sequence[list[int]], num_workers: int) -> Iterator[Iterator[LoadedBatch]]:
        """The batches with these examples, in this order, prepared ahead by `num_workers` processes.

        A context manager: the processes end with its block.
        """
        workers = min(num_workers, len(batches))
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "This DataLoader will create")  # more processes than cores: as asked for
            loaded: Any = iter(
                DataLoader(
                    self,
                    batch_sampler=batches,
                    collate_fn=self.collate,
                    num_workers=workers,
                    worker_init_fn=_leave_signals_to_main,
                )
            )
        try:
            yield loaded
        except InputError as error:
            if not str(error).startswith(_FROM_WORKER):
                raise
            # The loader wraps what a worker raised into a text with its traceback.
            raise InputError(str(error).strip().splitlines()[-1].partition("InputError: ")[2]) from None
        finally:
            if workers:
                loaded._shutdown_workers()  # an exception's traceback would keep them until the program's end


def _leave_signals_to_main(_worker: int) -> None:
    """Signals for the whole group reach the workers too; the run still needs them to end its step."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)


def _domain(source: ExampleSource) -> str:
    """The domain of the first record that is readable."""
    error: InputError | None = None
    for place in range(min(len(source), _MAX_SKIPPED)):
        try:
            return source[place].domain
        except InputError as unreadable:
            error = error or unreadable
    raise error or InputError(f"{source.name}: holds no examples")
