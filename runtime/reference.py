"""The operators of `ai.embernet`, version 1, in NumPy. This file is their definition; docs/operators.md explains it.

The ONNX function bodies, the torch layers and the native kernels are tested against these functions. They are written
to be read, not to be fast.

Two rules make integers equal on every machine: sums of many floats (mean square, weight means, router logits) run in
float64, and everything else is a float32 operation that IEEE 754 rounds exactly. Rounding is half to even.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from embernet.runtime.packing import unpack_expert, unpack_int8, unpack_ternary

Float = NDArray[np.float32]

INT8_FLOOR = 1e-8


@dataclass(frozen=True)
class Norm:
    """Attributes of the normalisation inside BitLinear and TernaryMoE (see `rms_norm`)."""

    eps: float = 1e-5
    input_clip: float = 100.0
    output_clip: float = 10.0


@dataclass(frozen=True)
class Activation:
    """Attributes of the activation quantiser inside BitLinear and TernaryMoE (see `quantize_rows`)."""

    bits: int = 8
    clip: float = 128.0
    floor: float = 1e-5


def rms_norm(x: Float, weight: Float, norm: Norm) -> Float:
    """x (..., K), weight (K,) -> (..., K). `eps` is both a floor and a summand, as published."""
    eps = np.float32(norm.eps)
    x = np.clip(x, np.float32(-norm.input_clip), np.float32(norm.input_clip))
    variance = np.maximum(np.square(x).mean(axis=-1, keepdims=True, dtype=np.float64).astype(np.float32), eps)
    x = x * (np.float32(1) / np.sqrt(variance + eps))
    return weight * np.clip(x, np.float32(-norm.output_clip), np.float32(norm.output_clip))


def layer_norm(x: Float, weight: Float, bias: Float, eps: float) -> Float:
    """x (..., K), weight and bias (K,) -> (..., K)."""
    difference = x - x.mean(axis=-1, keepdims=True)
    variance = np.square(difference).mean(axis=-1, keepdims=True)
    return (difference / np.sqrt(variance + np.float32(eps)) * weight + bias).astype(np.float32)


def gelu_tanh(x: Float) -> Float:
    """The approximation of GELU with tanh (Hendrycks and Gimpel, 2016)."""
    inner = np.float32(np.sqrt(2 / np.pi)) * (x + np.float32(0.044715) * x * x * x)
    return (np.float32(0.5) * x * (np.float32(1) + np.tanh(inner))).astype(np.float32)


def quantize_rows(x: Float, activation: Activation) -> tuple[NDArray[np.int8], Float]:
    """x (..., K) -> codes (..., K) and the step of each row (..., 1): value = code * step."""
    limit = np.float32(2 ** (activation.bits - 1) - 1)
    x = np.clip(x, np.float32(-activation.clip), np.float32(activation.clip))
    largest = np.maximum(np.abs(x).max(axis=-1, keepdims=True), np.float32(activation.floor))
    scale = limit * (np.float32(1) / largest)  # in this order, as published
    codes = np.clip(np.rint(x * scale), -limit - 1, limit)
    return codes.astype(np.int8), np.float32(1) / scale


def quantize_weights(weight: Float, quantizer: str) -> tuple[NDArray[np.int8], np.float32]:
    """weight (N, K) -> ternary codes (N, K) and the scale of the tensor; quantizer "absmean" or "sign_mean"."""
    mean_abs = np.float32(np.abs(weight).mean(dtype=np.float64))
    if quantizer == "sign_mean":
        mean = np.float32(weight.mean(dtype=np.float64))
        return np.sign(weight - mean).astype(np.int8), np.maximum(mean_abs, np.float32(1e-8))
    if quantizer == "absmean":
        scale = np.maximum(mean_abs, np.float32(1e-5))
        return np.clip(np.rint(weight / scale), -1, 1).astype(np.int8), scale
    raise ValueError(f"unknown weight quantizer {quantizer!r}")


def count_levels(codes: NDArray[np.int8]) -> NDArray[np.int64]:
    """How many codes are -1, 0 and +1: (3,)."""
    return np.bincount(codes.ravel() + 1, minlength=3)


def quantize_int8(weight: Float) -> tuple[NDArray[np.int8], Float]:
    """weight (N, K) -> int8 codes (N, K) and one scale per row (N,): value = code * scale."""
    scale = np.maximum(np.abs(weight).max(axis=1), np.float32(INT8_FLOOR)) / np.float32(127)
    return np.rint(weight / scale[:, None]).astype(np.int8), scale


def _integer_product(codes: NDArray[np.int8], weights: NDArray[np.int8]) -> Float:
    """codes (..., K) x weights (N, K) -> (..., N): an exact integer sum, then float32."""
    return (codes.astype(np.int32) @ weights.astype(np.int32).T).astype(np.float32)


def bit_linear(
    x: Float,
    norm_weight: Float,
    weight: NDArray[np.uint8],
    scale: np.float32,
    out_features: int,
    norm: Norm,
    activation: Activation,
) -> Float:
    """x (..., K), norm_weight (K,), weight R16K16, scale () -> (..., out_features)."""
    codes, step = quantize_rows(rms_norm(x, norm_weight, norm), activation)
    return _integer_product(codes, unpack_ternary(weight, out_features, x.shape[-1])) * (step * scale)


def int8_linear(x: Float, weight: NDArray[np.int8], scale: Float, bias: Float) -> Float:
    """x (..., K), weight R16K4, scale (N,), bias (N,) or (1,) -> (..., N)."""
    codes, step = quantize_rows(x, Activation(bits=8, clip=float(np.finfo(np.float32).max), floor=INT8_FLOOR))
    return _integer_product(codes, unpack_int8(weight, scale.shape[0], x.shape[-1])) * (step * scale) + bias


def int8_embedding(ids: NDArray[np.int64], weight: NDArray[np.int8], scale: Float, embedding_size: int) -> Float:
    """ids (...), weight R16K4, scale (V,) -> (..., embedding_size): rows of a table as Int8Linear has it."""
    return unpack_int8(weight, scale.shape[0], embedding_size)[ids] * scale[ids][..., None]


@dataclass(frozen=True)
class ExpertWeights:
    """Inputs of TernaryMoE that hold the experts; X = E experts, then the shared one if there is one.

    gate_norm, up_norm (X, H); hidden_norm (X, F), or (X, 1) for none; down_norm (X, F);
    scales (X, 3) of gate, up, down; packed (X, expert_bytes).
    """

    gate_norm: Float
    up_norm: Float
    hidden_norm: Float
    down_norm: Float
    scales: Float
    packed: NDArray[np.uint8]


@dataclass(frozen=True)
class ExpertClips:
    """Attributes of TernaryMoE: limits of the gate, of silu(gate) * up, and of the sum of the experts."""

    gate: float = 20.0
    hidden: float = 1000.0
    output: float = 1e4


def route(x: Float, router_weight: Float, router_bias: Float, top_k: int) -> tuple[NDArray[np.int64], Float]:
    """x (T, H), router_weight (E, H), router_bias (E,) -> experts (T, top_k), best first, and their weights."""
    logits = (x.astype(np.float64) @ router_weight.astype(np.float64).T + router_bias).astype(np.float32)
    exponentials = np.exp(logits - logits.max(axis=-1, keepdims=True))
    probabilities = exponentials / exponentials.sum(axis=-1, keepdims=True)
    experts = np.argsort(-probabilities, axis=-1, kind="stable")[:, :top_k]
    weights = np.take_along_axis(probabilities, experts, axis=-1)
    return experts, weights / (weights.sum(axis=-1, keepdims=True) + np.float32(1e-8))


def ternary_moe(
    x: Float,
    input_norm_weight: Float,
    router_weight: Float,
    router_bias: Float,
    experts: ExpertWeights,
    top_k: int,
    input_norm: Norm,
    norm: Norm,
    activation: Activation,
    clips: ExpertClips,
) -> tuple[Float, NDArray[np.int64], Float]:
    """x (..., H) -> y (..., H), chosen experts (..., top_k), their weights (..., top_k).

    h = rms_norm(x); y = x + clip(sum over chosen experts, in ascending order, of weight * expert(h), + shared(h))
    """
    tokens = rms_norm(x.reshape(-1, x.shape[-1]), input_norm_weight, input_norm)
    chosen, weights = route(tokens, router_weight, router_bias, top_k)
    y = np.zeros_like(tokens)
    num_experts = router_weight.shape[0]
    for index in range(experts.packed.shape[0]):
        if index < num_experts:
            rows, choice = np.nonzero(chosen == index)
            mix = weights[rows, choice][:, None]
        else:
            rows, mix = np.arange(len(tokens)), np.ones((len(tokens), 1), np.float32)
        if len(rows):
            y[rows] += mix * expert(tokens[rows], experts, index, norm, activation, clips)
    y = np.clip(y, np.float32(-clips.output), np.float32(clips.output))
    lead = x.shape[:-1]
    return x + y.reshape(x.shape), chosen.reshape(*lead, top_k), weights.reshape(*lead, top_k)


def expert(
    x: Float, experts: ExpertWeights, index: int, norm: Norm, activation: Activation, clips: ExpertClips
) -> Float:
    """One expert: x (T, H) -> (T, H). down(clip(silu(clip(gate(x))) * up(x)))"""
    hidden_size, intermediate_size = x.shape[-1], experts.down_norm.shape[-1]
    gate_codes, up_codes, down_codes = unpack_expert(experts.packed[index], hidden_size, intermediate_size)
    scales = experts.scales[index]

    def linear(x: Float, norm_weight: Float, codes: NDArray[np.int8], scale: np.float32) -> Float:
        x_codes, step = quantize_rows(rms_norm(x, norm_weight, norm), activation)
        return _integer_product(x_codes, codes) * (step * scale)

    gate: Float = np.clip(linear(x, experts.gate_norm[index], gate_codes, scales[0]), -clips.gate, clips.gate)
    up = linear(x, experts.up_norm[index], up_codes, scales[1])
    hidden: Float = np.clip(gate / (np.float32(1) + np.exp(-gate)) * up, -clips.hidden, clips.hidden)
    if experts.hidden_norm.shape == experts.down_norm.shape:
        hidden = rms_norm(hidden, experts.hidden_norm[index], norm)
    return linear(hidden, experts.down_norm[index], down_codes, scales[2])


def multi_head_attention(query: Float, key: Float, value: Float, num_heads: int) -> Float:
    """query (B, T, H), key and value (B, S, H) -> (B, T, H): softmax(q k / sqrt(size)) v in each of num_heads heads."""
    q, k, v = (_heads(x, num_heads) for x in (query, key, value))
    return _merge(_softmax(q @ k.swapaxes(-1, -2) / np.sqrt(np.float32(q.shape[-1]))) @ v)


@dataclass(frozen=True)
class AttentionWeights:
    """Inputs of TernaryAttention that hold weights, of the query, key, value and output projections in this order.

    norms (4, H), scales (4,); query R16K16 (H, H), key and value R16K16 (kv_num_heads * D, H), out R16K16 (H, H).
    """

    norms: Float
    scales: Float
    query: NDArray[np.uint8]
    key: NDArray[np.uint8]
    value: NDArray[np.uint8]
    out: NDArray[np.uint8]


@dataclass(frozen=True)
class AttentionCache:
    """Inputs of TernaryAttention about positions.

    past_key, past_value (B, kv_num_heads, P, D); seqlens_k (B,): the length with the new tokens, less 1;
    total_sequence_length (): the longest length; cos, sin (positions, D/2).
    """

    past_key: Float
    past_value: Float
    seqlens_k: NDArray[np.int32]
    total_sequence_length: np.int32
    cos: Float
    sin: Float


def ternary_attention(
    x: Float,
    input_norm_weight: Float,
    weights: AttentionWeights,
    cache: AttentionCache,
    num_heads: int,
    kv_num_heads: int,
    input_norm: Norm,
    norm: Norm,
    activation: Activation,
) -> tuple[Float, Float, Float]:
    """x (B, T, H) -> x + attention (B, T, H), present_key and present_value (B, kv_num_heads, max(P, total), D)."""
    H = x.shape[-1]
    kv_size = kv_num_heads * H // num_heads
    h = rms_norm(x, input_norm_weight, input_norm)

    def linear(h: Float, part: int, packed: NDArray[np.uint8], size: int) -> Float:
        return bit_linear(h, weights.norms[part], packed, weights.scales[part], size, norm, activation)

    q, k, v = linear(h, 0, weights.query, H), linear(h, 1, weights.key, kv_size), linear(h, 2, weights.value, kv_size)
    y, present_key, present_value = group_query_attention(q, k, v, cache, num_heads, kv_num_heads)
    return x + linear(y, 3, weights.out, H), present_key, present_value


def group_query_attention(
    query: Float, key: Float, value: Float, cache: AttentionCache, num_heads: int, kv_num_heads: int
) -> tuple[Float, Float, Float]:
    """query (B, T, num_heads * D), key and value (B, T, kv_num_heads * D) -> y (B, T, num_heads * D) and the cache.

    Queries and keys are turned by their position. Token t of a sequence sees the past and the new tokens 0..t.
    Where T is the total length there is no past: the sequences are read from their start, and those that are shorter
    are padded on the right.
    """
    q, k, v = _heads(query, num_heads), _heads(key, kv_num_heads), _heads(value, kv_num_heads)
    B, _, T, D = q.shape
    total = int(cache.total_sequence_length)
    y = np.empty((B, num_heads, T, D), np.float32)
    missing = ((0, 0), (0, 0), (0, max(0, total - cache.past_key.shape[2])), (0, 0))
    present_key, present_value = np.pad(cache.past_key, missing), np.pad(cache.past_value, missing)
    for b in range(B):
        past = 0 if total == T else int(cache.seqlens_k[b]) + 1 - T
        end = past + T
        cos, sin = cache.cos[past:end], cache.sin[past:end]
        present_key[b, :, past:end] = _turn(k[b], cos, sin)
        present_value[b, :, past:end] = v[b]
        group = num_heads // kv_num_heads
        keys, values = (np.repeat(present[b, :, :end], group, axis=0) for present in (present_key, present_value))
        scores = _turn(q[b], cos, sin) @ keys.swapaxes(-1, -2) / np.sqrt(np.float32(D))
        is_later = np.arange(end) > np.arange(past, end)[:, None]
        y[b] = _softmax(np.where(is_later, np.float32(-np.inf), scores)) @ values
    return _merge(y), present_key, present_value


def _turn(x: Float, cos: Float, sin: Float) -> Float:
    """x (..., T, D), cos and sin (T, D/2): rotate each pair of dimensions i and i + D/2."""
    first, second = np.split(x, 2, axis=-1)
    return np.concatenate([first * cos - second * sin, second * cos + first * sin], axis=-1)


def _softmax(scores: Float) -> Float:
    exponentials = np.exp(scores - scores.max(axis=-1, keepdims=True))
    return exponentials / exponentials.sum(axis=-1, keepdims=True)


def _heads(x: Float, num_heads: int) -> Float:
    """(B, T, heads * D) -> (B, heads, T, D)"""
    return x.reshape(*x.shape[:2], num_heads, -1).swapaxes(1, 2)


def _merge(x: Float) -> Float:
    """(B, heads, T, D) -> (B, T, heads * D)"""
    return x.swapaxes(1, 2).reshape(x.shape[0], x.shape[2], -1)
