"""The EmberNet pipeline: vision, embedding and decoder graphs, and a key/value cache that is bound in place."""

import numpy as np
from numpy.typing import NDArray

from embernet.errors import BundleError, InputError
from embernet.runtime.bundle import Bundle
from embernet.runtime.pipelines.base import Step
from embernet.runtime.session import Graph


class EmberNetPipeline:
    def __init__(self, bundle: Bundle, threads: int | None) -> None:
        def size(key: str) -> int:
            value = bundle.manifest.config.get(key)
            if type(value) is not int or value < 1:
                raise BundleError(f"{bundle.path}: config.{key} must be a positive whole number (found {value!r})")
            return value

        self.num_image_tokens = size("num_image_tokens")
        self.hidden_size = size("hidden_size")
        self.vocab_size = bundle.manifest.vocab_size
        self.num_layers = size("num_layers")
        self.num_kv_heads = size("num_kv_heads")
        self.num_experts_per_tok = size("num_experts_per_tok")
        self.head_dim = self.hidden_size // size("num_attention_heads")
        if len(bundle.manifest.experts) != size("num_experts"):
            raise BundleError(
                f"{bundle.path}: names {len(bundle.manifest.experts)} experts, but has {size('num_experts')}"
            )
        ternary_bytes = int(bundle.manifest.bytes_by_kind.get("ternary", 0))
        self.vision, self.embedding, self.decoder = (
            Graph(bundle.file(name), threads, ternary_bytes)
            for name in ("vision.onnx", "embedding.onnx", "decoder.onnx")
        )
        self._require_interfaces(bundle)

    def _require_interfaces(self, bundle: Bundle) -> None:
        pixels, hidden = bundle.manifest.image.size, self.hidden_size
        self.vision.require_interface(
            {"pixel_values": (None, 3, pixels, pixels), "image_features": (None, self.num_image_tokens, hidden)}
        )
        self.embedding.require_interface(
            {"input_ids": (None, None), "image_features": (None, None, hidden), "inputs_embeds": (None, None, hidden)}
        )
        routing = (None, None, self.num_layers, self.num_experts_per_tok)
        cache = (None, self.num_kv_heads, None, self.head_dim)
        self.decoder.require_interface(
            {
                "inputs_embeds": (None, None, hidden),
                "attention_mask": (None, None),
                "num_logits_to_keep": (),
                "logits": (None, None, self.vocab_size),
                "selected_experts": routing,
                "routing_weights": routing,
                **{f"past_key_values.{name}": cache for name in self.cache_names()},
                **{f"present.{name}": cache for name in self.cache_names()},
            }
        )

    def cache_names(self) -> list[str]:
        """Suffixes of the cache's inputs and outputs: `0.key`, `0.value`, `1.key`, ..."""
        return [f"{layer}.{part}" for layer in range(self.num_layers) for part in ("key", "value")]

    def encode(self, pixel_values: NDArray[np.float32]) -> NDArray[np.float32]:
        """pixel_values (N, 3, S, S) -> image_features (N, I, H)."""
        return self.vision.run("image_features", {"pixel_values": pixel_values})

    def new_context(self, capacity: int) -> "EmberNetContext":
        return EmberNetContext(self, capacity)


class EmberNetContext:
    """One sequence. The cache has room for `capacity` positions; its memory is touched only as it fills."""

    def __init__(self, pipeline: EmberNetPipeline, capacity: int) -> None:
        self._pipeline = pipeline
        self._length = 0
        self.capacity = capacity
        shape = (1, pipeline.num_kv_heads, capacity, pipeline.head_dim)
        self._cache = {name: np.zeros(shape, np.float32) for name in pipeline.cache_names()}

    @property
    def length(self) -> int:
        return self._length

    def truncate(self, length: int) -> None:
        self._length = min(self._length, length)

    def feed(self, input_ids: list[int], image_features: NDArray[np.float32] | None = None, keep: int = 1) -> Step:
        """Run the image tokens of image_features (N, I, H), if any, and then input_ids. See `base.Context.feed`."""
        p = self._pipeline
        embeds = self._embed(input_ids, image_features)
        T = embeds.shape[1]
        total = self._length + T
        if total > self.capacity:
            raise InputError(f"the context holds {self.capacity} positions, {total} are needed")
        logits = np.empty((1, keep or T, p.vocab_size), np.float32)
        experts = np.empty((1, T, p.num_layers, p.num_experts_per_tok), np.int64)
        weights = np.empty(experts.shape, np.float32)
        p.decoder.run_in_place(
            {
                "inputs_embeds": embeds,
                "attention_mask": np.ones((1, total), np.int64),
                "num_logits_to_keep": np.array(keep, np.int64),
                **{f"past_key_values.{name}": buffer for name, buffer in self._cache.items()},
            },
            {
                "logits": logits,
                "selected_experts": experts,
                "routing_weights": weights,
                **{f"present.{name}": buffer for name, buffer in self._cache.items()},
            },
        )
        self._length = total
        return Step(logits[0], experts[0].transpose(1, 0, 2), weights[0].transpose(1, 0, 2))

    def _embed(self, input_ids: list[int], image_features: NDArray[np.float32] | None) -> NDArray[np.float32]:
        """-> inputs_embeds (1, I+T, H)."""
        p = self._pipeline
        ids = np.array([input_ids], np.int64).reshape(1, -1)
        if image_features is None:
            image_features = np.empty((0, p.hidden_size), np.float32)
            if ids.size and not 0 <= ids.min() <= ids.max() < p.vocab_size:
                raise InputError(f"token ids must be from 0 to {p.vocab_size - 1}")
        features = image_features.reshape(1, -1, p.hidden_size)
        return p.embedding.run("inputs_embeds", {"input_ids": ids, "image_features": features})
