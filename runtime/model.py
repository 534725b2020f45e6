"""A loaded model: `caption`, `ask`, `encode`, `chat`, and below them the numeric layer `forward`, `generate_ids`."""

import hashlib
import os
import time
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, TypeAlias, TypedDict, overload

import numpy as np
from numpy.typing import NDArray

from embernet.errors import BundleError, InputError
from embernet.families import bundle_family
from embernet.runtime.answer import Answer, EncodedImage, Timings
from embernet.runtime.bundle import DEFAULT_MODEL, TOKENIZER_FILE, WEIGHTS_FILE, Bundle, open_bundle
from embernet.runtime.generation import generate
from embernet.runtime.hugepages import require_huge_pages
from embernet.runtime.image import ImageSource, load_image, preprocess
from embernet.runtime.memory_check import check_before_loading
from embernet.runtime.pipelines.base import Context, Pipeline
from embernet.runtime.sampling import Sampler, Sampling, require_whole
from embernet.runtime.session import EngineOptions
from embernet.runtime.stream import AnswerStream
from embernet.runtime.text import Encoded, TextCodec

if TYPE_CHECKING:
    from typing_extensions import Unpack

    from embernet.runtime.chat import Chat

AnyImage: TypeAlias = ImageSource | EncodedImage

ENCODED_IMAGES_KEPT = 8
MAX_THREADS = 256


class SamplingOptions(TypedDict, total=False):
    """How tokens are drawn; what is left out, or None, is the bundle's default. See `sampling.Sampling`."""

    temperature: float | None
    top_k: int | None
    top_p: float | None
    seed: int | None


class GenerationOptions(SamplingOptions, total=False):
    """Options of every verb that answers; max_tokens: most new tokens, None = the bundle's default."""

    max_tokens: int | None


@dataclass(frozen=True)
class Forward:
    """logits (T, V), router choices and their weights (L, T, K) of every position, image positions first."""

    logits: NDArray[np.float32]
    experts: NDArray[np.int64]
    weights: NDArray[np.float32]


def load(
    path_or_name: str | os.PathLike[str] = DEFAULT_MODEL,
    *,
    threads: int | None = None,
    context: int | None = None,
    hugepages: bool = False,
    spin: bool = False,
) -> "Model":
    """Load a bundle directory, or a bundle by name.

    threads: of the engine, None = one per core. context: most positions of a sequence, None = all the model knows.
    hugepages: copy the weights into huge pages, for servers: a second copy in memory, read somewhat faster.
    spin: let threads wait for each other without sleeping: faster on a machine with nothing else to do, else slower.
    BundleError if there is no such bundle, or it is broken or too new; OutOfMemoryError if it does not fit in memory.
    """
    started = time.perf_counter()
    if threads is not None:
        require_whole("threads", threads, 1, MAX_THREADS)
    if hugepages:
        require_huge_pages()
    bundle = open_bundle(path_or_name)
    longest = bundle.manifest.context_length
    if context is not None:
        require_whole("context", context, 1, longest)
    family = bundle_family(bundle)
    copied_bytes = int(bundle.manifest.files[WEIGHTS_FILE]["bytes"]) if hugepages else 0
    warnings = check_before_loading(bundle.manifest.name, family.part("shape")(bundle), context, copied_bytes)
    pipeline = family.part("pipeline")(bundle, EngineOptions(threads, hugepages, spin))
    return Model(bundle, pipeline, context or longest, (time.perf_counter() - started) * 1e3, warnings)


class Model:
    """Made by `load`. Not for use from several threads at once."""

    def __init__(
        self,
        bundle: Bundle,
        pipeline: Pipeline,
        context_length: int,
        load_ms: float,
        warnings: tuple[str, ...] = (),
    ) -> None:
        """warnings: what its user should know before anything is asked."""
        self.bundle = bundle
        self.manifest = bundle.manifest
        self.context_length = context_length
        self.load_ms = load_ms
        self.warnings = warnings
        self._pipeline = pipeline
        self._codec: TextCodec | None = None
        self._features: OrderedDict[bytes, NDArray[np.float32]] = OrderedDict()

    # --- verbs ------------------------------------------------------------------------------------------------------

    def encode(self, image: AnyImage) -> EncodedImage:
        """Encode an image once, to ask about it many times. Recent images are remembered by content, never by path."""
        shape = (1, *self._pipeline.features_shape)
        if isinstance(image, EncodedImage):
            if image.features.shape != shape:
                raise InputError(
                    f"{image.name}: was encoded by another model (found {image.features.shape}, expected {shape})"
                )
            return image
        started = time.perf_counter()
        loaded = load_image(image)
        pixel_values = preprocess(loaded.rgb, self.manifest.image)
        preprocessed = time.perf_counter()
        key = hashlib.sha256(pixel_values.data).digest()
        vision_ms = 0.0
        if key not in self._features:
            encoding = time.perf_counter()
            features = self.encode_pixels(pixel_values)
            vision_ms = (time.perf_counter() - encoding) * 1e3
            features.flags.writeable = False  # every caller gets the same array
            self._features[key] = features
            if len(self._features) > ENCODED_IMAGES_KEPT:
                self._features.popitem(last=False)
        self._features.move_to_end(key)
        return EncodedImage(
            features=self._features[key],
            name=loaded.name,
            width=loaded.rgb.width,
            height=loaded.rgb.height,
            sha256=loaded.sha256,
            preprocess_ms=(preprocessed - started) * 1e3,
            vision_ms=vision_ms,
        )

    @overload
    def caption(
        self, image: AnyImage, *, stream: Literal[False] = False, **options: "Unpack[GenerationOptions]"
    ) -> Answer: ...

    @overload
    def caption(
        self, image: AnyImage, *, stream: Literal[True], **options: "Unpack[GenerationOptions]"
    ) -> AnswerStream: ...

    def caption(
        self, image: AnyImage, *, stream: bool = False, **options: "Unpack[GenerationOptions]"
    ) -> Answer | AnswerStream:
        """Describe an image with the model's own caption prompt."""
        answer = self._ask(image, self.prompt("caption"), options)
        return answer if stream else answer.finish()

    @overload
    def ask(
        self, image: AnyImage, question: str, *, stream: Literal[False] = False, **options: "Unpack[GenerationOptions]"
    ) -> Answer: ...

    @overload
    def ask(
        self, image: AnyImage, question: str, *, stream: Literal[True], **options: "Unpack[GenerationOptions]"
    ) -> AnswerStream: ...

    def ask(
        self, image: AnyImage, question: str, *, stream: bool = False, **options: "Unpack[GenerationOptions]"
    ) -> Answer | AnswerStream:
        """Answer a question about an image. With stream=True, iterate for the text; `.answer` is there at the end."""
        answer = self._ask(image, question, options)
        return answer if stream else answer.finish()

    def chat(self, image: AnyImage, *, history: bool = True) -> "Chat":
        """Begin a conversation about an image. history=False answers every question as if it were the first."""
        from embernet.runtime.chat import Chat

        return Chat(self, image, history=history)

    def prompt(self, task: str) -> str:
        """The model's own prompt of a task ("caption", "ocr", ...); InputError if it has not learnt the task."""
        prompts = self.manifest.prompt.prompts
        if task not in prompts:
            raise InputError(f"{self.manifest.name}: has not learnt {task!r} (it knows: {', '.join(sorted(prompts))})")
        return prompts[task]

    # --- numbers ----------------------------------------------------------------------------------------------------

    def forward(self, input_ids: Sequence[int], pixel_values: NDArray[np.float32] | None = None) -> Forward:
        """Logits and router choices of every position: image positions, if pixel_values (N, 3, S, S), then text."""
        ids, features = self._token_ids(input_ids), self._image_features(pixel_values)
        step = self.new_context(len(ids), features, room=0).feed(ids, features, all_logits=True)
        return Forward(step.logits, step.experts, step.weights)

    def generate_ids(
        self,
        input_ids: Sequence[int],
        pixel_values: NDArray[np.float32] | None = None,
        max_new_tokens: int | None = None,
        **sampling: "Unpack[SamplingOptions]",
    ) -> list[int]:
        """Continue a sequence; the end token, if it came, is the last of the new ids."""
        limit, sampler = self.read_options({"max_tokens": max_new_tokens, **sampling})
        ids, features = self._token_ids(input_ids), self._image_features(pixel_values)
        context = self.new_context(len(ids), features, room=limit)
        tokens = generate(context, context.feed(ids, features), sampler, self.manifest.eos_token_id, limit)
        return [token for token, _ in tokens]

    # --- the layer below the verbs ----------------------------------------------------------------------------------

    @property
    def num_image_tokens(self) -> int:
        """Positions that an image takes in a sequence."""
        return self._pipeline.features_shape[0]

    @property
    def decode_weight_bytes(self) -> int:
        """Bytes of weights that a token of an answer needs: of the experts, only those that work on it."""
        return self._pipeline.shape.decode_weight_bytes

    def encode_pixels(self, pixel_values: NDArray[np.float32]) -> NDArray[np.float32]:
        """pixel_values (N, 3, S, S) -> features (N, I, H): what `encode` does with an image it has not seen before."""
        return self._pipeline.encode(pixel_values)

    @property
    def codec(self) -> TextCodec:
        """The tokenizer; BundleError if the bundle was exported without one."""
        if self._codec is None:
            if not self.bundle.has_tokenizer():
                raise BundleError(
                    f"{self.bundle.path}: holds no tokenizer, so it cannot read or write text",
                    hint="export it again with --tokenizer tokenizer.json",
                )
            self._codec = TextCodec(self.bundle.path / TOKENIZER_FILE, self.manifest.vocab_size)
        return self._codec

    def encode_first_turn(self, question: str) -> Encoded:
        """Token ids of a conversation's first turn, the beginning-of-sequence token in front."""
        encoded = self.codec.encode(self.manifest.prompt.template, question)
        return Encoded([self.manifest.bos_token_id, *encoded.ids], encoded.unknown_words)

    def read_options(self, options: GenerationOptions) -> tuple[int, Sampler]:
        """The most new tokens and the sampler; InputError if an option is impossible."""
        known = GenerationOptions.__optional_keys__
        for name in options:
            if name not in known:
                raise TypeError(f"unknown option {name!r} (known: {', '.join(sorted(known))})")
        defaults = self.manifest.generation
        values: dict[str, Any] = {
            "max_tokens": defaults.max_new_tokens,
            "temperature": defaults.temperature,
            "top_k": defaults.top_k,
            "top_p": defaults.top_p,
        }
        values |= {name: value for name, value in options.items() if value is not None}
        limit = values.pop("max_tokens")
        require_whole("the number of new tokens", limit, low=1)
        return limit, Sampler(Sampling(**values))

    def new_context(self, num_text: int, features: NDArray[np.float32] | None, room: int) -> Context:
        """A context for so many text tokens after the image's, with room for an answer as far as the model reaches."""
        num_image = 0 if features is None else features.shape[0] * features.shape[1]
        needed = num_image + num_text
        if num_text < 1 or needed > self.context_length - min(room, 1):
            raise InputError(
                f"the question does not fit the context (found {num_text} text and {num_image} image tokens, "
                f"expected 1 to {self.context_length} together)"
            )
        return self._pipeline.new_context(min(needed + room, self.context_length))

    def begin_answer(
        self,
        context: Context,
        prompt: Encoded,
        image: EncodedImage | None,
        decoding: tuple[int, Sampler],
        pending: Sequence[int] = (),
        timings: Timings | None = None,
    ) -> AnswerStream:
        """An answer to `prompt` in `context`: the image's tokens, if one is given, pending ids, then the prompt's.

        decoding: from `read_options`. pending: the end of the answer before, which the context does not hold yet.
        timings: what the answer has taken so far.
        """
        limit, sampler = decoding
        words = ", ".join(repr(word) for word in dict.fromkeys(prompt.unknown_words))
        return AnswerStream(
            context=context,
            input_ids=[*pending, *prompt.ids],
            prompt_tokens=len(prompt.ids),
            image_features=None if image is None else image.features,
            sampler=sampler,
            max_new_tokens=limit,
            eos_token_id=self.manifest.eos_token_id,
            codec=self.codec,
            expert_names=self.manifest.experts,
            timings=timings or Timings(),
            warnings=(f"{self.manifest.name} does not know {words}",) if words else (),
        )

    def _ask(self, image: AnyImage, question: str, options: GenerationOptions) -> AnswerStream:
        limit, sampler = self.read_options(options)
        prompt = self.encode_first_turn(question)
        encoded = self.encode(image)
        timings = Timings() if encoded is image else Timings(encoded.preprocess_ms, encoded.vision_ms)
        context = self.new_context(len(prompt.ids), encoded.features, room=limit)
        return self.begin_answer(context, prompt, encoded, (limit, sampler), timings=timings)

    def _token_ids(self, input_ids: Sequence[int]) -> list[int]:
        """The ids as plain numbers; InputError unless they are a row of whole numbers inside the vocabulary."""
        try:
            ids = np.asarray(input_ids)
        except ValueError:  # rows of different lengths
            ids = np.array(None)
        if ids.ndim != 1 or (ids.size and ids.dtype.kind not in "iu"):
            raise InputError(f"token ids must be one row of whole numbers (found {input_ids!r:.80})")
        last = self.manifest.vocab_size - 1
        if ids.size and not 0 <= ids.min() <= ids.max() <= last:
            raise InputError(f"token ids must be from 0 to {last} (found {ids.min()} to {ids.max()})")
        return [int(token) for token in ids]

    def _image_features(self, pixel_values: NDArray | None) -> NDArray[np.float32] | None:
        """Features of pixel_values (N, 3, S, S) of any kind of number; InputError if they have another shape."""
        if pixel_values is None:
            return None
        size = self.manifest.image.size
        array = np.asarray(pixel_values)
        if array.ndim != 4 or array.shape[0] < 1 or array.shape[1:] != (3, size, size) or array.dtype.kind not in "fiu":
            raise InputError(
                f"pixel_values must be numbers of the shape (N, 3, {size}, {size}) "
                f"(found {array.dtype} of the shape {array.shape})"
            )
        with np.errstate(over="ignore"):
            pixels = np.ascontiguousarray(array, np.float32)
        if not np.isfinite(pixels).all():
            raise InputError("pixel_values must be finite (found NaN or infinity)")
        return self._pipeline.encode(pixels)
