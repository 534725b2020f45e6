"""The sizes of an EmberNet model, from its manifest alone.

P patches, C vision_hidden_size, H hidden_size, F intermediate_size, V vocab_size, T positions.
"""

import math

from embernet.errors import BundleError
from embernet.runtime.bundle import WEIGHTS_FILE, Bundle
from embernet.runtime.packing import expert_bytes, int8_shape, ternary_shape
from embernet.runtime.pipelines.shape import FLOAT_BYTES, PREFILL_PIECE, MemoryNeed, Work

MAX_SIZE = 2**20  # of any dimension
MAX_LAYERS = 4096
# Anonymous memory of the three sessions, measured: what any model takes, and what a layer of either side adds.
_SESSIONS_BYTES = 4_000_000
_LAYER_BYTES = 90_000
# float32 values of H that stay with a position, besides those of its experts, until a prompt was read.
_ROWS_OF_A_POSITION = 9
_KERNEL = 4  # of the stem's convolutions


class EmberNetShape:
    def __init__(self, bundle: Bundle) -> None:
        """BundleError if the configuration lacks a size."""
        self._bundle = bundle
        config, size = bundle.manifest.config, self._size
        self.num_image_tokens = size("num_image_tokens")
        self.hidden_size, self.vocab_size = size("hidden_size"), bundle.manifest.vocab_size
        self.intermediate_size = size("intermediate_size")
        self.num_layers = size("num_layers", MAX_LAYERS)
        self.num_heads, self.num_kv_heads = size("num_attention_heads"), size("num_kv_heads")
        self.head_dim = self.hidden_size // self.num_heads
        self.num_experts, self.num_experts_per_tok = size("num_experts"), size("num_experts_per_tok")
        self.num_shared = int(bool(config.get("use_shared_expert")))
        # The image, and at least one token.
        self._first_piece = max(PREFILL_PIECE, self.num_image_tokens + 1)
        self.has_int8_table = bundle.manifest.precision.get("embedding") == "int8"

    def _size(self, key: str, high: int = MAX_SIZE) -> int:
        """A size from the configuration; BundleError unless it is a whole number from 1 to high."""
        value = self._bundle.manifest.config.get(key)
        if type(value) is not int or not 1 <= value <= high:
            raise BundleError(
                f"{self._bundle.path}: config.{key} must be a whole number from 1 to {high} (found {value!r:.80})"
            )
        return value

    # --- bytes of weights -------------------------------------------------------------------------------------------

    @property
    def decode_weight_bytes(self) -> int:
        """One row of the embedding; in each layer the attention, the router, the chosen experts and the shared one; the
        head. Rotary tables, the cache, and the padding between experts are not counted.
        """
        H, F = self.hidden_size, self.intermediate_size
        expert = 2 * _bit_linear_bytes(F, H) + _bit_linear_bytes(H, F) + self._hidden_norm_bytes
        experts = self.num_experts_per_tok + self.num_shared
        row = H + FLOAT_BYTES if self.has_int8_table else FLOAT_BYTES * H
        return row + self.num_layers * (self._layer_bytes + experts * expert) + FLOAT_BYTES * H + self._table_bytes

    @property
    def _decoder_weight_bytes(self) -> int:
        """Everything in the decoder's graph: all experts with their padding, and the rotary tables."""
        H, F = self.hidden_size, self.intermediate_size
        norms = FLOAT_BYTES * (2 * H + F + 3) + self._hidden_norm_bytes
        experts = (self.num_experts + self.num_shared) * (expert_bytes(H, F) + norms)
        rotary = FLOAT_BYTES * self.head_dim * self._bundle.manifest.context_length
        return self.num_layers * (self._layer_bytes + experts) + FLOAT_BYTES * H + self._table_bytes + rotary

    @property
    def _table_bytes(self) -> int:
        """The embedding, which is the head."""
        H, V = self.hidden_size, self.vocab_size
        return math.prod(int8_shape(V, H)) + FLOAT_BYTES * V if self.has_int8_table else FLOAT_BYTES * V * H

    @property
    def _layer_bytes(self) -> int:
        """Of a decoder's layer, without its experts."""
        H, kv = self.hidden_size, self.num_kv_heads * self.head_dim
        attention = 2 * _bit_linear_bytes(H, H) + 2 * _bit_linear_bytes(kv, H)
        return attention + FLOAT_BYTES * self.num_experts * (H + 1) + 2 * FLOAT_BYTES * H

    @property
    def _hidden_norm_bytes(self) -> int:
        return FLOAT_BYTES * (self.intermediate_size if self._bundle.manifest.config.get("expert_norm") else 1)

    def _vision_weight_bytes(self) -> int:
        """What the decoder leaves of `weights.bin`."""
        whole = int(self._bundle.manifest.files[WEIGHTS_FILE]["bytes"])
        return max(0, whole - self._decoder_weight_bytes)

    # --- work -------------------------------------------------------------------------------------------------------

    def image_work(self) -> Work:
        size, H, tokens = self._size, self.hidden_size, self.num_image_tokens
        C, hidden = size("vision_hidden_size"), size("vision_intermediate_size")
        layers = size("vision_num_layers", MAX_LAYERS)
        factor, crossings = size("shuffle_factor"), size("num_cross_attention_layers", MAX_LAYERS)
        grid = size("image_size") // size("patch_size")
        P, cells = grid**2, (-(-grid // factor)) ** 2
        stem, channels, patch = self._stem()

        layer = self._linear(P, C, 3 * C) + self._linear(P, C, C)
        layer += self._linear(P, C, hidden) + self._linear(P, hidden, C)
        layer += _attention(P, P, C) + Work(values=2 * P * C + P * hidden, operators=7)
        tower = self._linear(P, channels * patch**2, C) + layer.times(layers)
        compressor = self._linear(cells, factor**2 * C, C) + Work(values=cells * (factor**2 + 1) * C, operators=8)
        pooler = self._linear(cells, C, 2 * C) + _attention(tokens, cells, C) + self._linear(tokens, C, C)
        crossing = self._linear(tokens, H, 2 * H) + _attention(tokens, tokens, H) + self._linear(tokens, H, H)
        projector = _ternary(tokens, C, H) + crossing.times(crossings) + self._linear(tokens, H, H).times(crossings - 1)
        projector += _ternary(tokens, H, 4 * H) + _ternary(tokens, 4 * H, H)
        values = Work(values=tokens * (C + (crossings + 5) * H), operators=4 * crossings + 8)
        weights = Work(weight_bytes=self._vision_weight_bytes())
        return stem + tower + compressor + pooler + projector + values + weights

    def _stem_channels(self) -> list[int]:
        channels = self._bundle.manifest.config.get("stem_channels") or []
        if not isinstance(channels, list) or not all(
            type(width) is int and 1 <= width <= MAX_SIZE for width in channels
        ):
            raise BundleError(f"{self._bundle.path}: config.stem_channels must hold sizes (found {channels!r:.80})")
        return channels

    def _stem(self) -> tuple[Work, int, int]:
        """The convolutions before the tower, the channels they give, and the side of a patch of them."""
        work, channels = Work(), 3
        side, patch = self._size("image_size"), self._size("patch_size")
        for width in self._stem_channels():
            side, patch = side // 2, patch // 2
            work += Work(floats=side**2 * width * channels * _KERNEL**2, values=side**2 * width, operators=2)
            channels = width
        return work, channels, patch

    def _linear(self, rows: int, inputs: int, outputs: int) -> Work:
        """A layer of the image side: int8, unless the bundle says otherwise."""
        products = rows * inputs * outputs
        if self._bundle.manifest.precision.get("vision") != "int8":
            return Work(floats=products, operators=1)
        return Work(int8=products, inputs=rows * inputs, outputs=rows * outputs, operators=1)

    def prefill_work(self, positions: int) -> Work:
        layers = self._layer_work(positions, past=0).times(self.num_layers)
        pieces = 1 + -(-max(0, positions - self._first_piece) // PREFILL_PIECE)
        return layers + self._head_work() + Work(weight_bytes=self._decoder_weight_bytes).times(pieces)

    def token_work(self, past: int) -> Work:
        work = self._layer_work(1, past).times(self.num_layers)
        # A row is multiplied by other loops than many are.
        work += Work(single=work.ternary, ternary=-work.ternary)
        return work + self._head_work() + Work(weight_bytes=self.decode_weight_bytes)

    def _layer_work(self, T: int, past: int) -> Work:  # noqa: N803
        H, F, kv = self.hidden_size, self.intermediate_size, self.num_kv_heads * self.head_dim
        attention = _ternary(T, H, H).times(2) + _ternary(T, H, kv).times(2)
        attention += Work(floats=2 * H * (T * past + T * (T + 1) // 2), inputs=2 * T * H)
        expert = _ternary(T, H, F).times(2) + _ternary(T, F, H)
        experts = expert.times(self.num_experts_per_tok + self.num_shared) + Work(inputs=2 * T * H)
        # Both halves of a layer are one operator each.
        return Work(**{**vars(attention + experts), "operators": 2})

    def _head_work(self) -> Work:
        """The logits of one position."""
        H, V = self.hidden_size, self.vocab_size
        kind = {"single": H * V} if self.has_int8_table else {"floats": H * V}
        return Work(**kind, inputs=2 * H, outputs=V, operators=12)

    # --- memory -----------------------------------------------------------------------------------------------------

    @property
    def cache_position_bytes(self) -> int:
        """Keys and values of one position."""
        return 2 * self.num_layers * self.num_kv_heads * self.head_dim * FLOAT_BYTES

    def memory(self) -> MemoryNeed:
        H, size = self.hidden_size, self._size
        experts = self.num_experts_per_tok + self.num_shared
        patches = (size("image_size") // size("patch_size")) ** 2
        stem = sum(width * (size("image_size") >> i) ** 2 for i, width in enumerate(self._stem_channels(), start=1))
        layers = self.num_layers + size("vision_num_layers", MAX_LAYERS)
        return MemoryNeed(
            vision_weights=self._vision_weight_bytes(),
            decoder_weights=self._decoder_weight_bytes,
            table_weights=self._table_bytes,
            sessions=_SESSIONS_BYTES + _LAYER_BYTES * layers,
            # The widest layer with what it is made of, as the engine lays it out; the pixels; the stem.
            image=FLOAT_BYTES * (4 * patches * size("vision_intermediate_size") + 3 * size("image_size") ** 2 + stem),
            position=FLOAT_BYTES * (2 * experts * self.intermediate_size + _ROWS_OF_A_POSITION * H),
            cache_position=self.cache_position_bytes,
            piece=self._first_piece,
        )


def _ternary(rows: int, inputs: int, outputs: int) -> Work:
    """A BitLinear: its inputs are normalised, and then quantised."""
    products = rows * inputs * outputs
    return Work(ternary=products, inputs=2 * rows * inputs, outputs=rows * outputs, operators=1)


def _attention(rows: int, keys: int, width: int) -> Work:
    return Work(floats=2 * rows * keys * width, operators=1)


def _bit_linear_bytes(out_features: int, in_features: int) -> int:
    """The packed matrix, the weights of its norm, its scale."""
    return math.prod(ternary_shape(out_features, in_features)) + FLOAT_BYTES * (in_features + 1)
