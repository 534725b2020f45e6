"""The EmberNet pipeline: vision, embedding and decoder graphs, and a key/value cache that is bound in place."""

import math

import numpy as np
from numpy.typing import NDArray

from embernet.errors import BundleError, InputError, OutOfMemoryError
from embernet.runtime.bundle import GRAPH_FILES, WEIGHTS_FILE, Bundle
from embernet.runtime.packing import int8_shape, ternary_shape
from embernet.runtime.pipelines.base import Step
from embernet.runtime.release import trim_heap
from embernet.runtime.session import FLOAT, INT64, EngineOptions, Graph

MAX_SIZE = 2**20  # of any dimension
MAX_LAYERS = 4096


def _size(bundle: Bundle, key: str, high: int = MAX_SIZE) -> int:
    """A size from the configuration; BundleError unless it is a whole number from 1 to high."""
    value = bundle.manifest.config.get(key)
    if type(value) is not int or not 1 <= value <= high:
        raise BundleError(f"{bundle.path}: config.{key} must be a whole number from 1 to {high} (found {value!r:.80})")
    return value


class EmberNetPipeline:
    def __init__(self, bundle: Bundle, engine: EngineOptions) -> None:
        def size(key: str, high: int = MAX_SIZE) -> int:
            return _size(bundle, key, high)

        self._bundle = bundle
        self.hidden_size = size("hidden_size")
        self.features_shape = (size("num_image_tokens"), self.hidden_size)
        self.vocab_size = bundle.manifest.vocab_size
        self.num_layers = size("num_layers", MAX_LAYERS)
        self.num_kv_heads = size("num_kv_heads")
        self.num_experts_per_tok = size("num_experts_per_tok")
        self.head_dim = self.hidden_size // size("num_attention_heads")
        self.num_experts = size("num_experts")
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

    def decode_weight_bytes(self) -> int:
        """Bytes of weights that a token of an answer needs, as `weights.bin` holds them.

        One row of the embedding; in each layer the attention, the router, the chosen experts and the shared one; the
        head. Rotary tables, the cache, and the padding between experts are not counted.
        """

        def bit_linear(out_features: int, in_features: int) -> int:
            """The packed matrix, the weights of its norm, its scale."""
            return math.prod(ternary_shape(out_features, in_features)) + 4 * in_features + 4

        bundle, config = self._bundle, self._bundle.manifest.config
        H, V, F = self.hidden_size, self.vocab_size, _size(bundle, "intermediate_size")
        kv = self.num_kv_heads * self.head_dim
        attention = 2 * bit_linear(H, H) + 2 * bit_linear(kv, H)
        hidden_norm = 4 * (F if config.get("expert_norm") else 1)
        expert = 2 * bit_linear(F, H) + bit_linear(H, F) + hidden_norm
        router = 4 * self.num_experts * (H + 1)
        experts = self.num_experts_per_tok + bool(config.get("use_shared_expert"))
        layer = attention + router + experts * expert + 2 * 4 * H
        if bundle.manifest.precision.get("embedding") == "int8":
            row, head = H + 4, math.prod(int8_shape(V, H)) + 4 * V
        else:
            row, head = 4 * H, 4 * V * H
        return row + self.num_layers * layer + 4 * H + head

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
        self._bound_sizes = (0, 0, 0)
        self._embedding = pipeline.embedding.binding()
        self._decoder = pipeline.decoder.binding()
        self._decoder.bind(
            {f"past_key_values.{name}": buffer for name, buffer in cache.items()} | {"attention_mask": self._mask},
            {f"present.{name}": buffer for name, buffer in cache.items()},
        )

    @property
    def length(self) -> int:
        return self._length

    def feed(self, input_ids: list[int], image_features: NDArray[np.float32] | None = None, keep: int = 1) -> Step:
        """Run the image tokens of image_features (N, I, H), if any, and then input_ids. See `base.Context.feed`."""
        p = self._pipeline
        num_image = 0 if image_features is None else image_features.shape[0] * image_features.shape[1]
        T = num_image + len(input_ids)
        total = self._length + T
        if total > self.capacity:
            raise InputError(f"the context holds {self.capacity} positions, {total} are needed")
        # The steps of an answer are all alike: what they read and write is bound once.
        if (num_image, T, keep) != self._bound_sizes:
            self._bind(num_image, T, keep)
        self._ids[:] = input_ids
        if image_features is not None:
            self._features[:] = image_features.reshape(self._features.shape)
        self._embedding.run()
        self._mask[:, self._length : total] = 1
        self._mask[:, total:] = 0  # a longer run may have failed before
        is_prefill = T > 1  # needs far more working memory than the steps that follow
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

    def _bind(self, num_image: int, num_positions: int, keep: int) -> None:
        """Bind arrays for a run over so many positions that keeps `keep` logits, 0 = all."""
        p, T = self._pipeline, num_positions
        try:
            self._ids = np.empty((1, T - num_image), np.int64)
            self._features = np.empty((1, num_image, p.hidden_size), np.float32)
            embeds = np.empty((1, T, p.hidden_size), np.float32)
            logits = np.empty((1, keep or T, p.vocab_size), np.float32)
            experts = np.empty((1, T, p.num_layers, p.num_experts_per_tok), np.int64)
            weights = np.empty(experts.shape, np.float32)
        except MemoryError:
            raise OutOfMemoryError(f"the results of {T} positions do not fit in memory") from None
        self._embedding.bind(
            {"input_ids": self._ids, "image_features": self._features},
            {"inputs_embeds": embeds},
        )
        self._decoder.bind(
            {"inputs_embeds": embeds, "num_logits_to_keep": np.array(keep, np.int64)},
            {"logits": logits, "selected_experts": experts, "routing_weights": weights},
        )
        self._results = logits, experts, weights
        self._bound_sizes = (num_image, T, keep)
