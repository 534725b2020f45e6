"""A conversation about an image, with real history: earlier turns stay in the context the model reads."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, overload

from embernet.runtime.answer import Answer, EncodedImage
from embernet.runtime.model import AnyImage, GenerationOptions, Model
from embernet.runtime.pipelines.base import Context
from embernet.runtime.stream import AnswerStream
from embernet.runtime.text import Encoded

if TYPE_CHECKING:
    from typing_extensions import Unpack


@dataclass(frozen=True)
class Turn:
    """One question and the answer it got (as far as it was generated)."""

    question: str
    stream: AnswerStream

    @property
    def answer(self) -> Answer:
        return self.stream.answer


class Chat:
    """Made by `Model.chat`. When the conversation outgrows the context, the oldest turns are forgotten first."""

    def __init__(self, model: Model, image: AnyImage, *, history: bool = True) -> None:
        self._model = model
        self._keep_history = history
        self._context: Context | None = None
        self.turns: list[Turn] = []
        self.image: EncodedImage = model.encode(image)

    def load(self, image: AnyImage) -> None:
        """Change the image. The conversation about the old one is forgotten."""
        self.image = self._model.encode(image)
        self.clear()

    def clear(self) -> None:
        """Forget the conversation, keep the image."""
        self.turns = []
        self._context = None

    @overload
    def ask(
        self, question: str, *, stream: Literal[False] = False, **options: "Unpack[GenerationOptions]"
    ) -> Answer: ...

    @overload
    def ask(self, question: str, *, stream: Literal[True], **options: "Unpack[GenerationOptions]") -> AnswerStream: ...

    def ask(
        self, question: str, *, stream: bool = False, **options: "Unpack[GenerationOptions]"
    ) -> Answer | AnswerStream:
        """Ask the next question. A streamed answer that is not read to its end counts as far as it was read."""
        answer = self._next_answer(question, options)
        return answer if stream else answer.finish()

    def _next_answer(self, question: str, options: GenerationOptions) -> AnswerStream:
        """The answer to come, remembered as the last turn. A question that is refused makes nothing forgotten."""
        model = self._model
        decoding = model.read_options(options)
        room = min(decoding[0], model.context_length // 4)
        turns, context = (list(self.turns), self._context) if self._keep_history else ([], None)
        if turns:
            turns[-1].stream.close()
            last = turns[-1].answer
            if last.finish_reason == "interrupted":
                context = None  # its end is not known, so it is built anew
            if not last.token_ids:
                turns.pop()
        answer = None
        if context is not None and turns:
            prompt = self._encode(question, first=False)
            # The last token of an answer is not fed back, so the context does not hold it yet.
            pending = turns[-1].answer.token_ids[-1:]
            if context.length + len(pending) + len(prompt.ids) + room <= context.capacity:
                answer = model.begin_answer(context, prompt, None, decoding, pending)
        if answer is None:
            num_image = self.image.features.shape[1]
            prompt = self._whole_conversation(turns, question)
            while turns and num_image + len(prompt.ids) + room > model.context_length:
                turns.pop(0)
                prompt = self._whole_conversation(turns, question)
            # A conversation grows, so its context reaches as far as the model does.
            context = model.new_context(len(prompt.ids), self.image.features, room=model.context_length)
            answer = model.begin_answer(context, prompt, self.image, decoding)
        self.turns, self._context = [*turns, Turn(question, answer)], context
        return answer

    def _whole_conversation(self, turns: Sequence[Turn], question: str) -> Encoded:
        """Token ids of the remembered turns with their answers, and of the new question."""
        ids: list[int] = []
        for turn in turns:
            ids += [*self._encode(turn.question, first=not ids).ids, *turn.answer.token_ids]
        prompt = self._encode(question, first=not ids)
        return Encoded(ids + prompt.ids, prompt.unknown_words)

    def _encode(self, question: str, first: bool) -> Encoded:
        if first:
            return self._model.encode_first_turn(question)
        return self._model.codec.encode(self._model.manifest.prompt.turn, question)
