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

    input_ids begin with what the context still lacks of the answer before; the last prompt_tokens of them are new.
    Only the model's own time is counted, not what the caller does between two pieces.
    """

    def __init__(
        self,
        context: Context,
        input_ids: list[int],
        prompt_tokens: int,
        image_features: NDArray[np.float32] | None,
        sampler: Sampler,
        max_new_tokens: int,
        eos_token_id: int,
        codec: TextCodec,
        expert_names: tuple[str, ...],
        timings: Timings,
        warnings: tuple[str, ...],
    ) -> None:
        self._prompt_tokens = prompt_tokens
        self._image_tokens = 0 if image_features is None else image_features.shape[1]
        self._eos_token_id = eos_token_id
        self._text = codec.stream()
        self._expert_names = expert_names
        self._timings = timings
        self._warnings = warnings
        self._ids: list[int] = []
        self._choices: list[NDArray[np.int64]] = []
        self._finish_reason = "interrupted"
        # The context belongs to the generator alone: its memory is free once the answer is finished.
        self._pieces = self._run(context, input_ids, image_features, sampler, max_new_tokens)

    def __next__(self) -> str:
        return next(self._pieces)

    def close(self) -> None:
        """Stop generating; the answer so far is marked as interrupted."""
        self._pieces.close()

    @property
    def answer(self) -> Answer:
        """The answer so far."""
        return Answer(
            text=self._text.text,
            finish_reason=self._finish_reason,
            usage=Usage(self._image_tokens, self._prompt_tokens, len(self._ids)),
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

    def _run(
        self,
        context: Context,
        input_ids: list[int],
        image_features: NDArray[np.float32] | None,
        sampler: Sampler,
        max_new_tokens: int,
    ) -> Generator[str, None, None]:
        started = time.perf_counter()
        first = context.feed(input_ids, image_features)
        self._timings.prefill_ms += (time.perf_counter() - started) * 1e3
        tokens = generate(context, first, sampler, self._eos_token_id, max_new_tokens)
        while True:
            started = time.perf_counter()
            token, step = next(tokens, (None, first))
            if token is None:
                break
            self._ids.append(token)
            piece = self._text.feed(token)
            self._choices.append(step.experts[:, -1])
            self._timings.decode_ms += (time.perf_counter() - started) * 1e3
            if piece:
                yield piece
        self._finish_reason = "stop" if self._ids[-1] == self._eos_token_id else "length"
        if piece := self._text.flush():
            yield piece
