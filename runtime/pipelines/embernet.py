"""The EmberNet pipeline: vision, embedding and decoder graphs, and a key/value cache that is bound in place."""

import numpy as np
from numpy.typing import NDArray

from embernet.errors import BundleError, InputError, OutOfMemoryError
from embernet.runtime.bundle import GRAPH_FILES, WEIGHTS_FILE, Bundle
from embernet.runtime.memory_check import check_sequence
from embernet.runtime.pipelines.base import Step
from embernet.runtime.pipelines.embernet_shape import EmberNetShape
from embernet.runtime.pipelines.shape import PREFILL_PIECE
from embernet.runtime.release import trim_heap
from embernet.runtime.session import FLOAT, INT64, EngineOptions, Graph

_NOTHING = (0, 0, False)  # is bound


class EmberNetPipeline:
    def __init__(self, bundle: Bundle, engine: EngineOptions) -> None:
        self.shape = EmberNetShape(bundle)
        self.name, self.memory = bundle.manifest.name, self.shape.memory()
        self.hidden_size, self.vocab_size = self.shape.hidden_size, self.shape.vocab_size
        self.features_shape = (self.shape.num_image_tokens, self.hidden_size)
        self.num_layers, self.head_dim = self.shape.num_layers, self.shape.head_dim
        self.num_kv_heads = self.shape.num_kv_heads
        self.num_experts, self.num_experts_per_tok = self.shape.num_experts, self.shape.num_experts_per_tok
        if len(bundle.manifest.experts) != self.num_experts:
            raise BundleError(
                f"{bundle.path}: names {len(bundle.manifest.experts)} experts, but has {self.num_experts}"
            )
        self.vision, self.embedding, self.decoder = (
            Graph(bundle.path / name, bundle.path / WEIGHTS_FILE, engine) for name in GRAPH_FILES
        )
        self._require_interfaces(bundle)

    def _require_interfaces(self, bundle: Bundle) -> None:
        pixels, hidden = bundle.manifest.image.size, self.hidden_size
        self.vision.require_interface(
            {
                "pixel_values": (FLOAT, (None, 3, pixels, pixels)),
                "image_features": (FLOAT, (None, *self.features_shape)),
            }
        )
        self.embedding.require_interface(
            {
                "input_ids": (INT64, (None, None)),
                "image_features": (FLOAT, (None, None, hidden)),
                "inputs_embeds": (FLOAT, (None, None, hidden)),
            }
        )
        routing = (None, None, self.num_layers, self.num_experts_per_tok)
        self.decoder.require_interface(
            {
                "inputs_embeds": (FLOAT, (None, None, hidden)),
                "attention_mask": (INT64, (None, None)),
                "num_logits_to_keep": (INT64, ()),
                "logits": (FLOAT, (None, None, self.vocab_size)),
                "selected_experts": (INT64, routing),
                "routing_weights": (FLOAT, routing),
            }
        )
        cache = (FLOAT, (None, self.num_kv_heads, None, self.head_dim))
        self.decoder.require_interface(
            {f"{time}.{name}": cache for name in self.cache_names() for time in ("past_key_values", "present")}
        )

    def cache_names(self) -> list[str]:
        """Suffixes of the cache's inputs and outputs: `0.key`, `0.value`, `1.key`, ..."""
        return [f"{layer}.{part}" for layer in range(self.num_layers) for part in ("key", "value")]

    def encode(self, pixel_values: NDArray[np.float32]) -> NDArray[np.float32]:
        """pixel_values (N, 3, S, S) -> image_features (N, I, H)."""
        shape = (len(pixel_values), *self.features_shape)
        features = self.vision.run("image_features", shape, {"pixel_values": pixel_values}, shrink=True)
        # The decoder comes next, and the memory may not hold both.
        self.vision.release_weights()
        trim_heap()
        return features

    def new_context(self, capacity: int) -> "EmberNetContext":
        return EmberNetContext(self, capacity)


class EmberNetContext:
    """One sequence. The cache has room for `capacity` positions; its memory is touched only as it fills."""

    def __init__(self, pipeline: EmberNetPipeline, capacity: int) -> None:
        self._pipeline = pipeline
        self._length = 0
        self.capacity = capacity
        shape = (1, pipeline.num_kv_heads, capacity, pipeline.head_dim)
        try:
            cache = {name: np.zeros(shape, np.float32) for name in pipeline.cache_names()}
        except MemoryError:
            raise OutOfMemoryError(f"a context of {capacity} positions does not fit in memory") from None
        # As long as the cache: positions that are not there yet count as padding, and nothing has to be bound again.
        self._mask = np.zeros((1, capacity), np.int64)
        self._bound_sizes = _NOTHING
        self._embedding = pipeline.embedding.binding()
        self._decoder = pipeline.decoder.binding()
        self._decoder.bind(
            {f"past_key_values.{name}": buffer for name, buffer in cache.items()} | {"attention_mask": self._mask},
            {f"present.{name}": buffer for name, buffer in cache.items()},
        )

    @property
    def length(self) -> int:
        return self._length

    def feed(
        self, input_ids: list[int], image_features: NDArray[np.float32] | None = None, all_logits: bool = False
    ) -> Step:
        """Run the image tokens of image_features (N, I, H), if any, and then input_ids. See `base.Context.feed`."""
        p, start = self._pipeline, self._length
        if image_features is None:
            image_features = np.empty((0, 0, p.hidden_size), np.float32)
        features = image_features.reshape(1, image_features.shape[0] * image_features.shape[1], p.hidden_size)
        num_image = features.shape[1]
        T = num_image + len(input_ids)
        if start + T > self.capacity:
            raise InputError(f"the context holds {self.capacity} positions, {start + T} are needed")
        if T > 1:
            check_sequence(p.name, p.memory, start, self.capacity, T)
        # The image is read whole, with at least one token.
        starts = [0, *range(max(1, PREFILL_PIECE - num_image), len(input_ids), PREFILL_PIECE)]
        try:
            if len(starts) == 1:
                return self._run(input_ids, features, all_logits)
            logits = np.empty((T if all_logits else 0, p.vocab_size), np.float32)
            steps = []
            for begin, end in zip(starts, [*starts[1:], len(input_ids)], strict=True):
                done = self._length - start
                steps.append(self._run(input_ids[begin:end], features[:, :0] if begin else features, all_logits))
                if all_logits:  # the next run may write to the same array
                    logits[done : self._length - start] = steps[-1].logits
        except BaseException as error:
            # Nothing of it counts, not even what was bound.
            self._length, self._bound_sizes = start, _NOTHING
            if isinstance(error, MemoryError):
                raise OutOfMemoryError(f"the results of {T} positions do not fit in memory") from None
            raise
        experts = np.concatenate([step.experts for step in steps], axis=1)
        weights = np.concatenate([step.weights for step in steps], axis=1)
        return Step(logits if all_logits else steps[-1].logits, experts, weights)

    def _run(self, input_ids: list[int], features: NDArray[np.float32], all_logits: bool) -> Step:
        """Run what is short enough to be run at once: features (1, image tokens, H), and then input_ids."""
        p, num_image = self._pipeline, features.shape[1]
        T = num_image + len(input_ids)
        total = self._length + T
        is_prefill = T > 1  # needs far more working memory than the steps that follow
        # The steps of an answer are all alike: what they read and write is bound once.
        if (num_image, T, all_logits) != self._bound_sizes:
            self._bind(num_image, T, all_logits)
        self._ids[:] = input_ids
        self._features[:] = features
        self._embedding.run()
        self._mask[:, self._length : total] = 1
        self._mask[:, total:] = 0  # a longer run may have failed before
        self._decoder.run(shrink=is_prefill)
        if is_prefill:
            trim_heap()
        logits, experts, weights = self._results
        if not np.isfinite(logits).all():
            raise BundleError(f"{p.decoder.path}: computes logits that are not finite")
        if experts.min() < 0 or experts.max() >= p.num_experts:
            raise BundleError(
                f"{p.decoder.path}: chooses experts that do not exist (found {experts.min()} to {experts.max()}, "
                f"expected 0 to {p.num_experts - 1})"
            )
        self._length = total
        return Step(logits[0], experts[0].transpose(1, 0, 2).copy(), weights[0].transpose(1, 0, 2).copy())

    def _bind(self, num_image: int, num_positions: int, all_logits: bool) -> None:
        """Bind arrays for a run over so many positions."""
        p, T = self._pipeline, num_positions
        keep = 0 if all_logits else 1  # the graph's way to say it
        self._ids = np.empty((1, T - num_image), np.int64)
        self._features = np.empty((1, num_image, p.hidden_size), np.float32)
        embeds = np.empty((1, T, p.hidden_size), np.float32)
        logits = np.empty((1, keep or T, p.vocab_size), np.float32)
        experts = np.empty((1, T, p.num_layers, p.num_experts_per_tok), np.int64)
        weights = np.empty(experts.shape, np.float32)
        self._embedding.bind(
            {"input_ids": self._ids, "image_features": self._features},
            {"inputs_embeds": embeds},
        )
        self._decoder.bind(
            {"inputs_embeds": embeds, "num_logits_to_keep": np.array(keep, np.int64)},
            {"logits": logits, "selected_experts": experts, "routing_weights": weights},
        )
        self._results = logits, experts, weights
        self._bound_sizes = (num_image, T, all_logits)
