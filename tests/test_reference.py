"""The NumPy definition of the operators, against the published numbers and against the torch layers."""

import dataclasses

import hypothesis.extra.numpy as hnp
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from embernet.layers.bitlinear import BitLinear, rms_norm
from embernet.layers.quantizers import quantize_activations, quantize_weights
from embernet.models.embernet.decoder import Attention, Block, KVCache, MixtureOfExperts, rope_tables
from embernet.quantization import get_quantizer
from embernet.runtime import reference
from embernet.runtime.packing import pack_expert, pack_int8, pack_ternary
from tests import tolerances

FINITE = st.floats(-1e3, 1e3, width=32)
MATRICES = hnp.arrays(np.float32, hnp.array_shapes(min_dims=2, max_dims=2, max_side=40), elements=FINITE)


@pytest.mark.parametrize("eps", ["1e-5", "1e-6"])
def test_rms_norm_matches_the_published_one(ops, eps):
    y = reference.rms_norm(ops["rmsnorm_x"], ops["rmsnorm_weight"], reference.Norm(float(eps)))
    np.testing.assert_allclose(y, ops[f"rmsnorm_eps{eps}_y"], atol=tolerances.FLOAT32)


def test_activation_codes_match_the_published_ones(ops):
    codes, step = reference.quantize_rows(ops["aq_x"], get_quantizer("sign_mean", 8).activation)
    np.testing.assert_array_equal(codes, ops["aq_codes_int8"])
    np.testing.assert_allclose(codes * step, ops["aq_y"], rtol=1e-6)


@given(MATRICES)
def test_norm_is_the_same_in_torch_to_the_last_bit(x):
    weight = np.linspace(-2, 2, x.shape[1], dtype=np.float32)
    norm = reference.Norm(1e-5)
    ours = reference.rms_norm(x, weight, norm)
    np.testing.assert_array_equal(rms_norm(torch.from_numpy(x), torch.from_numpy(weight), norm).numpy(), ours)


@given(MATRICES, st.sampled_from(["absmean", "sign_mean"]), st.sampled_from([8, 4]))
def test_codes_are_the_same_in_torch(x, weights, bits):
    activation = get_quantizer(weights, bits).activation
    codes, step = reference.quantize_rows(x, activation)
    torch_codes, torch_step = quantize_activations(torch.from_numpy(x), activation)
    np.testing.assert_array_equal(torch_codes.numpy(), codes)
    np.testing.assert_array_equal(torch_step.numpy(), step)
    assert np.abs(codes).max(initial=0) <= 2 ** (bits - 1) - 1
    codes, scale = reference.quantize_weights(x, weights)
    torch_codes, torch_scale = quantize_weights(torch.from_numpy(x), weights)
    np.testing.assert_array_equal(torch_codes.numpy(), codes)
    assert float(torch_scale) == scale


@given(MATRICES)
def test_int8_codes_lose_at_most_half_a_step(x):
    codes, scale = reference.quantize_int8(x)
    error = np.abs(codes * scale[:, None] - x)
    assert (error <= scale[:, None] * 0.5001).all()


@settings(deadline=None, max_examples=30)
@given(st.integers(1, 70), st.integers(1, 40), st.sampled_from(["absmean", "sign_mean"]), st.sampled_from([8, 4]))
def test_bit_linear_is_the_same_in_torch_to_the_last_integer(in_features, out_features, weights, bits):
    rng = np.random.default_rng(in_features * 100 + out_features)
    layer = BitLinear(in_features, out_features, get_quantizer(weights, bits))
    layer.norm.weight.data = torch.from_numpy(rng.standard_normal(in_features, np.float32))
    x = rng.standard_normal((2, 3, in_features), np.float32) * 5
    codes, scale = reference.quantize_weights(layer.weight.detach().numpy(), weights)
    ours = reference.bit_linear(
        x,
        layer.norm.weight.detach().numpy(),
        pack_ternary(codes),
        scale,
        out_features,
        reference.Norm(),
        layer.quantizer.activation,
    )
    np.testing.assert_array_equal(layer(torch.from_numpy(x)).detach().numpy(), ours)


def test_int8_linear_of_exact_numbers_is_exact():
    # Rows and inputs whose largest value is 127 steps are not rounded at all.
    rng = np.random.default_rng(0)
    weights, x = (rng.integers(-127, 128, shape).astype(np.float32) for shape in ((20, 33), (4, 33)))
    weights[:, 0], x[:, 0] = 127, 127
    codes, scale = reference.quantize_int8(weights)
    y = reference.int8_linear(x, pack_int8(codes), scale, np.ones(20, np.float32))
    np.testing.assert_allclose(y, x @ weights.T + 1, rtol=1e-6)


def test_routing_prefers_the_first_of_two_equal_experts_and_weights_sum_to_one():
    x = np.ones((1, 4), np.float32)
    weight = np.zeros((3, 4), np.float32)
    experts, weights = reference.route(x, weight, np.array([0.0, 1.0, 1.0], np.float32), 2)
    assert experts.tolist() == [[1, 2]]
    np.testing.assert_allclose(weights.sum(), 1, rtol=1e-6)


@pytest.mark.parametrize("expert_norm", [False, True])
@pytest.mark.parametrize("shared", [False, True])
def test_a_layer_of_the_decoder_is_the_same_in_torch(tiny_checkpoint, expert_norm, shared):
    config = dataclasses.replace(tiny_checkpoint.config, expert_norm=expert_norm, use_shared_expert=shared)
    torch.manual_seed(1)
    block = Block(config, 0)
    for parameter in block.parameters():
        parameter.data += 0.1 * torch.randn_like(parameter)
    batch, past, T = 2, 5, 7
    x = torch.randn(batch, past + T, config.hidden_size)
    cos, sin = rope_tables(config.head_dim, torch.arange(past + T), config.rope_base)
    cache, mask = KVCache(), torch.ones(past + T, past + T, dtype=torch.bool).tril()
    with torch.no_grad():
        block(x[:, :past], cos[:past], sin[:past], mask[:past, :past], cache)
        past_key, past_value = (part.numpy() for part in cache.layers[0])
        torch_y, _, torch_chosen, torch_weights = block(x[:, past:], cos[past:], sin[past:], mask[past:], cache)

    def array(name: str) -> np.ndarray:
        return block.get_parameter(name).detach().numpy()

    input_norm, norm = reference.Norm(config.rms_norm_eps), reference.Norm(config.bitlinear_norm_eps)
    half = config.head_dim // 2
    y, present_key, _ = reference.ternary_attention(
        x[:, past:].numpy(),
        array("input_layernorm.weight"),
        attention_weights(block.attention, config),
        reference.AttentionCache(
            past_key,
            past_value,
            seqlens_k=np.full(batch, past + T - 1, np.int32),
            total_sequence_length=np.int32(past + T),
            cos=cos[:, :half].numpy(),
            sin=sin[:, :half].numpy(),
        ),
        config.num_attention_heads,
        config.num_kv_heads,
        input_norm,
        norm,
        config.quantizer.activation,
    )
    np.testing.assert_allclose(cache.layers[0][0], present_key, atol=tolerances.FLOAT32)
    y, chosen, weights = reference.ternary_moe(
        y,
        array("post_attention_layernorm.weight"),
        array("moe.router.weight"),
        array("moe.router.bias"),
        moe_weights(block.moe, config),
        config.num_experts_per_tok,
        input_norm,
        norm,
        config.quantizer.activation,
        reference.ExpertClips(),
    )
    np.testing.assert_array_equal(torch_chosen, chosen)
    np.testing.assert_allclose(torch_weights, weights, atol=1e-6)
    np.testing.assert_allclose(torch_y, y, atol=tolerances.FLOAT32)


def attention_weights(attention: Attention, config) -> reference.AttentionWeights:
    """The projections of a torch module as the operator takes them."""
    layers = [attention.q_proj, attention.k_proj, attention.v_proj, attention.o_proj]
    parts = [reference.quantize_weights(layer.weight.detach().numpy(), config.weight_quantizer) for layer in layers]
    return reference.AttentionWeights(
        np.stack([layer.norm.weight.detach().numpy() for layer in layers]),
        np.array([scale for _, scale in parts], np.float32),
        *(pack_ternary(codes) for codes, _ in parts),
    )


def moe_weights(moe: MixtureOfExperts, config) -> reference.ExpertWeights:
    """The experts of a torch module as the operator takes them."""
    experts = [*moe.experts, *([moe.shared_expert] if moe.shared_expert is not None else [])]

    def stack(get) -> np.ndarray:
        return np.stack([get(expert).detach().numpy() for expert in experts])

    packed, scales = [], []
    for expert in experts:
        parts = [
            reference.quantize_weights(layer.weight.detach().numpy(), config.weight_quantizer)
            for layer in (expert.gate_proj, expert.up_proj, expert.down_proj)
        ]
        packed.append(pack_expert(*(codes for codes, _ in parts)))
        scales.append([scale for _, scale in parts])
    return reference.ExpertWeights(
        gate_norm=stack(lambda e: e.gate_proj.norm.weight),
        up_norm=stack(lambda e: e.up_proj.norm.weight),
        hidden_norm=stack(lambda e: e.norm.weight) if config.expert_norm else np.ones((len(experts), 1), np.float32),
        down_norm=stack(lambda e: e.down_proj.norm.weight),
        scales=np.array(scales, np.float32),
        packed=np.stack(packed),
    )
