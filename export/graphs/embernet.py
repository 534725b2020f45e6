"""The three ONNX graphs of the EmberNet family.

    vision      pixel_values (batch, 3, S, S) float32 -> image_features (batch, I, H) float32
    embedding   input_ids (batch, T) int64, image_features (batch, I, H) float32 -> inputs_embeds (batch, I+T, H)
    decoder     inputs_embeds (batch, T, H) float32, attention_mask (batch, total) int64,
                past_key_values.N.key / .value (batch, num_kv_heads, past, head_dim) float32,
                num_logits_to_keep () int64, optional, 0 = all
                -> logits (batch, kept, vocab), present.N.key / .value (batch, num_kv_heads, total, head_dim),
                   selected_experts (batch, T, layers, K) int64, routing_weights (batch, T, layers, K) float32

S image_size, I image tokens (0 in a text without image), H hidden_size, K experts per token. `total` counts past and
new positions. Names follow Hugging Face, optimum and onnxruntime-genai.
"""

from collections.abc import Callable, Mapping
from dataclasses import asdict
from typing import Any

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from embernet.errors import InputError
from embernet.export.functions import DOMAIN
from embernet.export.graph import GraphBuilder
from embernet.export.weights import WeightsWriter
from embernet.models.embernet.config import EMBEDDING_CLIP, VISION_RMS_EPS, EmberNetConfig
from embernet.runtime import reference
from embernet.runtime.packing import pack_expert, pack_int8, pack_ternary
from embernet.runtime.reference import ExpertClips, Norm

FLOAT, INT64, INT32 = ir.DataType.FLOAT, ir.DataType.INT64, ir.DataType.INT32
ROTARY_HEAD_MULTIPLE = 16
FLOAT_MAX = float(np.finfo(np.float32).max)
INT64_MAX = int(np.iinfo(np.int64).max)

Tensors = Mapping[str, NDArray[np.float32]]


def build_graphs(
    config: EmberNetConfig, tensors: Tensors, weights: WeightsWriter, vision: str, embedding: str
) -> dict[str, ir.Model]:
    """Build all graphs and write their weights.

    tensors: checkpoint tensors by canonical name, read when asked for. vision, embedding: "int8" or "float32".
    """
    return {
        "vision": _Vision(config, tensors, weights, vision).build(),
        "embedding": _Embedding(config, tensors, weights, embedding).build(),
        "decoder": _Decoder(config, tensors, weights, embedding).build(),
    }


class _Graph:
    """What the three graphs share: a builder, the tensors, and the layers that appear in more than one of them."""

    def __init__(
        self, name: str, config: EmberNetConfig, tensors: Tensors, weights: WeightsWriter, precision: str
    ) -> None:
        self.config = config
        self.tensors = tensors
        self.weights = weights
        self.int8 = precision == "int8"
        self.builder = GraphBuilder(name, weights)
        self.op: Callable[..., Any] = self.builder.op
        self.bit_linear_attributes = _prefixed("norm", Norm(config.bitlinear_norm_eps)) | _prefixed(
            "activation", config.quantizer.activation
        )

    def ternary(self, name: str) -> tuple[NDArray[np.int8], np.float32]:
        codes, scale = reference.quantize_weights(self.tensors[f"{name}.weight"], self.config.weight_quantizer)
        self.weights.levels += reference.count_levels(codes)
        return codes, scale

    def bit_linear(self, x: ir.Value, name: str) -> ir.Value:
        """x (..., K) -> (..., N)."""
        codes, scale = self.ternary(name)
        with self.builder.scope(name.rsplit(".", 1)[-1]):
            return self.op(
                "BitLinear",
                x,
                self.builder.weight(f"{name}.norm.weight", self.tensors[f"{name}.norm.weight"]),
                self.builder.weight(f"{name}.weight", pack_ternary(codes), "ternary"),
                self.builder.weight(f"{name}.scale", np.array(scale)),
                domain=DOMAIN,
                out_features=len(codes),
                **self.bit_linear_attributes,
            )

    def rms_norm(self, x: ir.Value, name: str, eps: float) -> ir.Value:
        weight = self.builder.weight(f"{name}.weight", self.tensors[f"{name}.weight"])
        return self.op("RmsNorm", x, weight, domain=DOMAIN, **asdict(Norm(eps)))

    def linear(self, x: ir.Value, name: str, weight: NDArray[np.float32], bias: NDArray[np.float32]) -> ir.Value:
        """x (..., K), weight (N, K), bias (N,) or (1,) -> (..., N), in the precision of this graph."""
        if not self.int8:
            transposed = self.builder.weight(f"{name}.weight", np.ascontiguousarray(weight.T))
            return self.op("Add", self.op("MatMul", x, transposed), self.builder.weight(f"{name}.bias", bias))
        codes, scale = reference.quantize_int8(weight)
        return self.op(
            "Int8Linear",
            x,
            self.builder.weight(f"{name}.weight", pack_int8(codes), "int8"),
            self.builder.weight(f"{name}.scale", scale),
            self.builder.weight(f"{name}.bias", bias),
            domain=DOMAIN,
        )


def _prefixed(prefix: str, attributes: Any) -> dict[str, Any]:
    """A reference dataclass as node attributes: Norm.eps -> norm_eps."""
    return {f"{prefix}_{name}": value for name, value in asdict(attributes).items()}


class _Vision(_Graph):
    def __init__(self, config: EmberNetConfig, tensors: Tensors, weights: WeightsWriter, precision: str) -> None:
        super().__init__("vision", config, tensors, weights, precision)

    def build(self) -> ir.Model:
        config = self.config
        size = config.image_size
        pixels = self.builder.input("pixel_values", FLOAT, ["batch", 3, size, size])
        with self.builder.scope("vision"):
            x = self.tower(pixels)
            with self.builder.scope("compressor"):
                x = self.compressor(x)
            with self.builder.scope("pooler"):
                x = self.pooler(x)
            with self.builder.scope("projector"):
                x = self.projector(x)
            x = self.op("Mul", x, config.image_embed_scale)
        self.builder.output(x, "image_features", FLOAT, ["batch", config.num_image_tokens, config.hidden_size])
        return self.builder.model()

    def tower(self, pixels: ir.Value) -> ir.Value:
        """pixels (B, 3, S, S) -> (B, P, C): the stem and the SigLIP encoder."""
        config, prefix = self.config, "vision_encoder.encoder"
        with self.builder.scope("stem"):
            x = self.stem(pixels)
        grid = config.image_size // config.patch_size
        with self.builder.scope("embeddings"):
            # A convolution whose stride is its size is a linear layer of the cut-out patches.
            kernel = self.tensors[f"{prefix}.embeddings.patch_embedding.weight"]
            channels, patch = kernel.shape[1:3]
            x = self.op("Reshape", x, [0, channels, grid, patch, grid, patch])
            x = self.op("Transpose", x, perm=[0, 2, 4, 1, 3, 5])
            x = self.op("Reshape", x, [0, grid * grid, channels * patch * patch])
            bias = self.tensors[f"{prefix}.embeddings.patch_embedding.bias"]
            x = self.linear(x, f"{prefix}.embeddings.patch_embedding", kernel.reshape(len(kernel), -1), bias)
            name = f"{prefix}.embeddings.position_embedding.weight"
            x = self.op("Add", x, self.builder.weight(name, self.tensors[name]))
        for layer in range(config.vision_num_layers):
            with self.builder.scope(f"layers.{layer}"):
                x = self.tower_layer(x, f"{prefix}.encoder.layers.{layer}")
        return self.layer_norm(x, f"{prefix}.post_layernorm")

    def stem(self, x: ir.Value) -> ir.Value:
        """pixels (B, 3, S, S) -> (B, channels, S / 2^n, S / 2^n), in float32: it has few weights."""
        for index in range(len(self.config.stem_channels)):
            name = f"vision_encoder.stem.{2 * index}"
            weight, bias = (self.builder.weight(f"{name}.{p}", self.tensors[f"{name}.{p}"]) for p in ("weight", "bias"))
            x = self.op("Conv", x, weight, bias, kernel_shape=[4, 4], strides=[2, 2], pads=[1, 1, 1, 1])
            x = self.op("Relu", x)
        return x

    def tower_layer(self, x: ir.Value, name: str) -> ir.Value:
        h = self.layer_norm(x, f"{name}.layer_norm1")
        parts = [f"{name}.self_attn.{part}_proj" for part in "qkv"]
        weight = np.concatenate([self.tensors[f"{part}.weight"] for part in parts])
        bias = np.concatenate([self.tensors[f"{part}.bias"] for part in parts])
        q, k, v = self.op(
            "Split", self.linear(h, f"{name}.self_attn.qkv", weight, bias), outputs=3, axis=-1, num_outputs=3
        )
        h = self.attention(q, k, v, self.config.vision_num_heads)
        x = self.op("Add", x, self.named_linear(h, f"{name}.self_attn.out_proj"))
        h = self.named_linear(self.layer_norm(x, f"{name}.layer_norm2"), f"{name}.mlp.fc1")
        h = self.named_linear(self.op("GeluTanh", h, domain=DOMAIN), f"{name}.mlp.fc2")
        return self.op("Add", x, h)

    def compressor(self, x: ir.Value) -> ir.Value:
        """(B, P, C) -> (B, ceil(sqrt(P)/f)^2, C): join f x f neighbours, channel order (row, column, channel)."""
        config, name = self.config, "vision_encoder.compressor"
        f, C = config.shuffle_factor, config.vision_hidden_size
        side = config.image_size // config.patch_size
        missing = -side % f
        cells = (side + missing) // f
        x = self.op("Reshape", x, [0, side, side, C])
        if missing:
            x = self.op("Pad", x, [0, 0, 0, 0, 0, missing, missing, 0])
        x = self.op("Reshape", x, [0, cells, f, cells, f * C])
        x = self.op("Transpose", x, perm=[0, 1, 3, 2, 4])
        x = self.op("Reshape", x, [0, cells * cells, f * f * C])
        x = self.rms_norm(x, f"{name}.pre_norm", VISION_RMS_EPS)
        return self.rms_norm(self.named_linear(x, f"{name}.proj"), f"{name}.post_norm", VISION_RMS_EPS)

    def pooler(self, x: ir.Value) -> ir.Value:
        """(B, N, C) -> (B, I, C)."""
        name = "vision_encoder.pooler"
        queries = self.tensors[f"{name}.queries"]
        h = self.cross_attention(queries, x, f"{name}.attn")
        h = self.op("Add", h, self.builder.weight(f"{name}.queries", queries))
        return self.rms_norm(h, f"{name}.norm", VISION_RMS_EPS)

    def projector(self, x: ir.Value) -> ir.Value:
        """(B, N, C) -> (B, I, H)."""
        name = "vision_encoder.projector"
        v = self.bit_linear(x, f"{name}.vision_proj")
        tokens = self.tensors[f"{name}.query_tokens"]
        query: NDArray[np.float32] | ir.Value = tokens
        residual = self.builder.weight(f"{name}.query_tokens", tokens)
        for layer in range(self.config.num_cross_attention_layers):
            with self.builder.scope(f"cross_attn_layers.{layer}"):
                h = self.cross_attention(query, v, f"{name}.cross_attn_layers.{layer}")
                query = residual = self.rms_norm(self.op("Add", residual, h), f"{name}.ln_q", VISION_RMS_EPS)
        h = self.bit_linear(residual, f"{name}.ffn.0")
        h = self.bit_linear(self.op("Gelu", h, approximate="none"), f"{name}.ffn.2")
        return self.rms_norm(self.op("Add", residual, h), f"{name}.ln_ff", VISION_RMS_EPS)

    def cross_attention(self, query: "NDArray[np.float32] | ir.Value", x: ir.Value, name: str) -> ir.Value:
        """torch's MultiheadAttention of query (B, I, C) or a constant (1, I, C) over x (B, N, C)."""
        weight, bias = self.tensors[f"{name}.in_proj_weight"], self.tensors[f"{name}.in_proj_bias"]
        size = weight.shape[1]
        if isinstance(query, ir.Value):
            q = self.linear(query, f"{name}.q_proj", weight[:size], bias[:size])
        else:
            # Learned queries do not depend on the image, so their projection is a constant.
            projected = query @ weight[:size].T + bias[:size]
            batch = self.op("Shape", x, start=0, end=1)
            shape = self.op("Concat", batch, list(projected.shape[1:]), axis=0)
            q = self.op("Expand", self.builder.weight(f"{name}.projected_queries", projected), shape)
        kv = self.linear(x, f"{name}.kv_proj", weight[size:], bias[size:])
        k, v = self.op("Split", kv, outputs=2, axis=-1, num_outputs=2)
        h = self.attention(q, k, v, self.config.resampler_num_heads)
        return self.named_linear(h, f"{name}.out_proj")

    def attention(self, q: ir.Value, k: ir.Value, v: ir.Value, num_heads: int) -> ir.Value:
        return self.op("MultiHeadAttention", q, k, v, domain=DOMAIN, num_heads=num_heads)

    def layer_norm(self, x: ir.Value, name: str) -> ir.Value:
        weight, bias = (self.builder.weight(f"{name}.{p}", self.tensors[f"{name}.{p}"]) for p in ("weight", "bias"))
        return self.op("LayerNorm", x, weight, bias, domain=DOMAIN, eps=self.config.vision_norm_eps)

    def named_linear(self, x: ir.Value, name: str) -> ir.Value:
        return self.linear(x, name, self.tensors[f"{name}.weight"], self.tensors[f"{name}.bias"])


EMBEDDING = "decoder.embed_tokens"


class _Embedding(_Graph):
    def __init__(self, config: EmberNetConfig, tensors: Tensors, weights: WeightsWriter, precision: str) -> None:
        super().__init__("embedding", config, tensors, weights, precision)

    def build(self) -> ir.Model:
        config, op = self.config, self.op
        H = config.hidden_size
        ids = self.builder.input("input_ids", INT64, ["batch", "text"])
        image = self.builder.input("image_features", FLOAT, ["batch", "image", H])
        with self.builder.scope("embedding"):
            # With an image, the placeholder becomes padding and embeddings are clipped; a text alone is looked up.
            has_image = op("Greater", op("Shape", image, start=1, end=2), [0])
            for token in config.image_token_ids:
                is_placeholder = op("And", op("Equal", ids, token), has_image)
                ids = op("Where", is_placeholder, config.pad_token_id, ids)
            ids = op("Clip", ids, 0, config.vocab_size - 1)
            text = self.lookup(ids)
            bound = op("Squeeze", op("Where", has_image, EMBEDDING_CLIP, FLOAT_MAX))
            x = op("Clip", op("Concat", image, text, axis=1), op("Neg", bound), bound)
        self.builder.output(x, "inputs_embeds", FLOAT, ["batch", "sequence", H])
        return self.builder.model()

    def lookup(self, ids: ir.Value) -> ir.Value:
        """ids (B, T) -> (B, T, H)."""
        op, table = self.op, self.tensors[f"{EMBEDDING}.weight"]
        if not self.int8:
            return op("Gather", self.builder.weight(f"{EMBEDDING}.weight", table), ids)
        codes, scale = reference.quantize_int8(table)
        return op(
            "Int8Embedding",
            ids,
            self.builder.weight(f"{EMBEDDING}.weight", pack_int8(codes), "int8"),
            self.builder.weight(f"{EMBEDDING}.scale", scale),
            domain=DOMAIN,
            embedding_size=table.shape[1],
        )


class _Decoder(_Graph):
    def __init__(self, config: EmberNetConfig, tensors: Tensors, weights: WeightsWriter, precision: str) -> None:
        super().__init__("decoder", config, tensors, weights, precision)

    def build(self) -> ir.Model:
        config, op, builder = self.config, self.op, self.builder
        if config.head_dim % ROTARY_HEAD_MULTIPLE:
            raise InputError(
                f"config: hidden_size / num_attention_heads must be a multiple of {ROTARY_HEAD_MULTIPLE} for "
                f"GroupQueryAttention of ONNX Runtime (found {config.head_dim})"
            )
        H, V, L, K = config.hidden_size, config.vocab_size, config.num_layers, config.num_experts_per_tok
        cache_shape: list[int | str] = ["batch", config.num_kv_heads, "past", config.head_dim]
        present_shape: list[int | str] = ["batch", config.num_kv_heads, "total", config.head_dim]
        x = builder.input("inputs_embeds", FLOAT, ["batch", "sequence", H])
        mask = builder.input("attention_mask", INT64, ["batch", "total"])
        past = [
            tuple(builder.input(f"past_key_values.{i}.{part}", FLOAT, cache_shape) for part in ("key", "value"))
            for i in range(L)
        ]
        keep = builder.input("num_logits_to_keep", INT64, [], default=0)
        presents, experts, weights = [], [], []
        with builder.scope("model"):
            lengths = op("Cast", op("Sub", op("ReduceSum", mask, [1], keepdims=0), 1), to=INT32)
            total = op("Cast", op("Squeeze", op("Shape", mask, start=1, end=2)), to=INT32)
            for i in range(L):
                name = f"decoder.layers.{i}"
                with builder.scope(f"layers.{i}"):
                    x, *present = self.attention(x, past[i], lengths, total, name)
                    x, chosen, weight = self.mixture_of_experts(x, name)
                presents.append(present)
                experts.append(chosen)
                weights.append(weight)
            x = self.rms_norm(x, "decoder.norm", config.rms_norm_eps)
            x = op("Slice", x, op("Reshape", op("Neg", keep), [1]), [INT64_MAX], [1])
            logits = self.head(x)
            all_experts, all_weights = (
                op("Reshape", op("Concat", *layers, axis=2), [0, 0, L, K]) for layers in (experts, weights)
            )
        builder.output(logits, "logits", FLOAT, ["batch", "kept", V])
        for i, (key, value) in enumerate(presents):
            builder.output(key, f"present.{i}.key", FLOAT, present_shape)
            builder.output(value, f"present.{i}.value", FLOAT, present_shape)
        builder.output(all_experts, "selected_experts", INT64, ["batch", "sequence", L, K])
        builder.output(all_weights, "routing_weights", FLOAT, ["batch", "sequence", L, K])
        return builder.model()

    def attention(
        self, x: ir.Value, past: tuple[ir.Value, ...], lengths: ir.Value, total: ir.Value, name: str
    ) -> tuple[ir.Value, ...]:
        """x (B, T, H) -> x + attention (B, T, H), present key, present value (B, num_kv_heads, total, D)."""
        config, weight = self.config, self.builder.weight
        prefixes = [f"{name}.attention.{part}_proj" for part in "qkvo"]
        matrices = [self.ternary(prefix) for prefix in prefixes]
        norms = np.stack([self.tensors[f"{prefix}.norm.weight"] for prefix in prefixes])
        # Past and present may be the same buffer: the operator then appends in place.
        return self.op(
            "TernaryAttention",
            x,
            weight(f"{name}.input_layernorm.weight", self.tensors[f"{name}.input_layernorm.weight"]),
            weight(f"{name}.attention.norms", norms),
            weight(f"{name}.attention.scales", np.array([scale for _, scale in matrices], np.float32)),
            *(
                weight(f"{prefix}.weight", pack_ternary(codes), "ternary")
                for prefix, (codes, _) in zip(prefixes, matrices, strict=True)
            ),
            *past,
            lengths,
            total,
            *self.rope_tables(),
            domain=DOMAIN,
            outputs=3,
            num_heads=config.num_attention_heads,
            kv_num_heads=config.num_kv_heads,
            **_prefixed("input_norm", Norm(config.rms_norm_eps)),
            **self.bit_linear_attributes,
        )

    def rope_tables(self) -> tuple[ir.Value, ir.Value]:
        """cos and sin (max_position_embeddings, head_dim / 2)."""
        config = self.config
        exponents = -np.arange(0, config.head_dim, 2, dtype=np.float32) / np.float32(config.head_dim)
        frequencies = np.power(np.float32(config.rope_base), exponents)
        angles = np.arange(config.max_position_embeddings, dtype=np.float32)[:, None] * frequencies
        return self.builder.weight("rope.cos", np.cos(angles)), self.builder.weight("rope.sin", np.sin(angles))

    def mixture_of_experts(self, x: ir.Value, name: str) -> tuple[ir.Value, ...]:
        """x (B, T, H) -> x + experts (B, T, H), which they are (B, T, K), their weights (B, T, K)."""
        config, weight, moe = self.config, self.builder.weight, f"{name}.moe"
        prefixes = [f"{moe}.experts.{i}" for i in range(config.num_experts)]
        if config.use_shared_expert:
            prefixes.append(f"{moe}.shared_expert")
        packed, scales = [], []
        for prefix in prefixes:
            parts = [self.ternary(f"{prefix}.{part}_proj") for part in ("gate", "up", "down")]
            packed.append(pack_expert(*(codes for codes, _ in parts)))
            scales.append([scale for _, scale in parts])

        def norms(suffix: str) -> NDArray[np.float32]:
            return np.stack([self.tensors[f"{prefix}.{suffix}"] for prefix in prefixes])

        hidden_norm = norms("norm.weight") if config.expert_norm else np.ones((len(prefixes), 1), np.float32)
        return self.op(
            "TernaryMoE",
            x,
            weight(f"{name}.post_attention_layernorm.weight", self.tensors[f"{name}.post_attention_layernorm.weight"]),
            weight(f"{moe}.router.weight", self.tensors[f"{moe}.router.weight"]),
            weight(f"{moe}.router.bias", self.tensors[f"{moe}.router.bias"]),
            weight(f"{moe}.gate_norm", norms("gate_proj.norm.weight")),
            weight(f"{moe}.up_norm", norms("up_proj.norm.weight")),
            weight(f"{moe}.hidden_norm", hidden_norm),
            weight(f"{moe}.down_norm", norms("down_proj.norm.weight")),
            weight(f"{moe}.scales", np.array(scales, np.float32)),
            weight(f"{moe}.experts", np.stack(packed), "ternary"),
            domain=DOMAIN,
            outputs=3,
            top_k=config.num_experts_per_tok,
            **{f"{part}_clip": value for part, value in asdict(ExpertClips()).items()},
            **_prefixed("input_norm", Norm(config.rms_norm_eps)),
            **self.bit_linear_attributes,
        )

    def head(self, x: ir.Value) -> ir.Value:
        """x (B, T, H) -> logits (B, T, V), with the embedding's table."""
        table = self.tensors[f"{EMBEDDING}.weight"]
        if self.int8:
            # The same name as in the embedding graph: `weights.bin` holds the table once.
            return self.linear(x, EMBEDDING, table, np.zeros(1, np.float32))
        H, V = self.config.hidden_size, self.config.vocab_size
        rows = self.op("Reshape", x, [-1, H])
        logits = self.op("Gemm", rows, self.builder.weight(f"{EMBEDDING}.weight", table), transB=1)
        shape = self.op("Concat", self.op("Shape", x, end=-1), [V], axis=0)
        return self.op("Reshape", logits, shape)
