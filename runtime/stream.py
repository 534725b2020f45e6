"""One answer in the making: text pieces come out, the finished answer stays."""

import time
from collections.abc import Generator, Iterator

import numpy as np
from numpy.typing import NDArray

from embernet.runtime.answer import Answer, Routing, Timings, Usage
from embernet.runtime.generation import generate
from embernet.runtime.pipelines.base import Context
from embernet.runtime.sampling import Sampler
from embernet.runtime.text import TextCodec


class AnswerStream(Iterator[str]):
    """Iterate for the pieces of text; `answer` holds what there is so far, whole once the iterator is used up.

    Only the model's own time is counted, not what the caller does between two pieces.
    """

    def __init__(
        self,
        context: Context,
        input_ids: list[int],
        image_features: NDArray[np.float32] | None,
        sampler: Sampler,
        max_new_tokens: int,
        eos_token_id: int,
        codec: TextCodec,
        expert_names: tuple[str, ...],
        timings: Timings,
        warnings: tuple[str, ...],
    ) -> None:
        self._context = context
        self._input_ids = input_ids
        self._image_features = image_features
        self._sampler = sampler
        self._max_new_tokens = max_new_tokens
        self._eos_token_id = eos_token_id
        self._codec = codec
        self._expert_names = expert_names
        self._timings = timings
        self._warnings = warnings
        self._ids: list[int] = []
        self._choices: list[NDArray[np.int64]] = []
        self._finish_reason = "interrupted"
        self._pieces = self._run()

    def __next__(self) -> str:
        return next(self._pieces)

    def close(self) -> None:
        """Stop generating; the answer so far is marked as interrupted."""
        self._pieces.close()

    @property
    def answer(self) -> Answer:
        """The answer so far."""
        num_image = 0 if self._image_features is None else self._image_features.shape[0] * self._image_features.shape[1]
        return Answer(
            text=self._codec.decode(self._ids),
            finish_reason=self._finish_reason,
            usage=Usage(num_image, len(self._input_ids), len(self._ids)),
            routing=Routing.count(self._expert_names, self._choices),
            timings=self._timings,
            token_ids=tuple(self._ids),
            warnings=self._warnings,
        )

    def finish(self) -> Answer:
        """Generate what is left and return the whole answer."""
        for _ in self:
            pass
        return self.answer

    def _run(self) -> Generator[str, None, None]:
        started = time.perf_counter()
        first = self._context.feed(self._input_ids, self._image_features)
        self._timings.prefill_ms += (time.perf_counter() - started) * 1e3
        text = self._codec.stream()
        tokens = generate(self._context, first, self._sampler, self._eos_token_id, self._max_new_tokens)
        while True:
            started = time.perf_counter()
            token, step = next(tokens, (None, first))
            if token is None:
                break
            piece = text.feed(token)
            self._ids.append(token)
            self._choices.append(step.experts[:, -1])
            self._timings.decode_ms += (time.perf_counter() - started) * 1e3
            if piece:
                yield piece
        self._finish_reason = "stop" if self._ids[-1] == self._eos_token_id else "length"
