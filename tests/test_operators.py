"""The ONNX function bodies, run by a stock ONNX Runtime, and the native operators, against the NumPy definition."""

import os
from dataclasses import asdict

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper
from onnx.reference import ReferenceEvaluator

from embernet.export.functions import DOMAIN, OPSET, OPSETS, operator_functions
from embernet.runtime import reference
from embernet.runtime.native_library import FUNCTION_BODIES, find_library, supported_isas
from embernet.runtime.packing import pack_expert, pack_int8, pack_ternary

NORM, INPUT_NORM = reference.Norm(), reference.Norm(1e-6, 90.0, 9.0)
FEW = settings(deadline=None, max_examples=15)
LIBRARY = os.environ.get("EMBERNET_TEST_LIBRARY") or find_library()  # test_sanitizers.py has one of its own
EVERY_ENGINE = pytest.mark.parametrize("isa", [FUNCTION_BODIES, *supported_isas()])


def functions_of(op_type: str) -> list[onnx.FunctionProto]:
    """The function of an operator and those that it calls: the reference evaluator does not know what others call."""
    functions = {function.name: function for function in operator_functions()}
    needed, names = [op_type], set()
    while needed:
        name = needed.pop()
        if name in functions and name not in names:
            names.add(name)
            nodes = [*functions[name].node]
            for node in nodes:  # grows by those of loops and branches
                nodes += [inner for attribute in node.attribute for inner in attribute.g.node]
            needed += [node.op_type for node in nodes if node.domain == DOMAIN]
    return [function for name, function in functions.items() if name in names]


def model_of(
    op_type: str, inputs: dict[str, np.ndarray], attributes: dict, outputs: list[int], ranks: list[int] | None = None
) -> onnx.ModelProto:
    """A model of one node; outputs are their element types, and all have the rank of the first input unless told."""
    values = [
        helper.make_tensor_value_info(name, helper.np_dtype_to_tensor_dtype(array.dtype), array.shape)
        for name, array in inputs.items()
    ]
    names = [f"output_{i}" for i in range(len(outputs))]
    ranks = ranks or [next(iter(inputs.values())).ndim] * len(outputs)
    results = [
        helper.make_tensor_value_info(name, kind, [f"{name}_{i}" for i in range(rank)])
        for name, kind, rank in zip(names, outputs, ranks, strict=True)
    ]
    node = helper.make_node(op_type, list(inputs), names, domain=DOMAIN, **attributes)
    model = helper.make_model(
        helper.make_graph([node], "one", values, results),
        opset_imports=[helper.make_opsetid(domain, version) for domain, version in OPSETS.items()],
        functions=functions_of(op_type),
        ir_version=10,
    )
    onnx.checker.check_model(model, full_check=True)
    return model


def run(
    model: onnx.ModelProto, inputs: dict[str, np.ndarray], isa: str = FUNCTION_BODIES, threads: int = 2
) -> list[np.ndarray]:
    """Run the function bodies, or the native operators with the kernels of `isa`."""
    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    options.log_severity_level = 4
    if isa != FUNCTION_BODIES:
        options.register_custom_ops_library(str(LIBRARY))
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("EMBERNET_ISA", isa)
        session = ort.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    return session.run(None, inputs)


def prefixed(prefix: str, attributes) -> dict:
    return {f"{prefix}_{name}": value for name, value in asdict(attributes).items()}


@EVERY_ENGINE
@FEW
@given(st.integers(1, 40), st.integers(1, 60), st.sampled_from([8, 4]), st.integers(1, 5))
def test_bit_linear(isa, out_features, in_features, bits, rows):
    rng = np.random.default_rng([out_features, in_features])
    activation = reference.Activation(bits, 50.0, 1e-4)
    inputs = {
        "x": rng.standard_normal((2, rows, in_features), np.float32) * 30,
        "norm_weight": rng.standard_normal(in_features, np.float32),
        "weight": pack_ternary(rng.integers(-1, 2, (out_features, in_features)).astype(np.int8)),
        "scale": np.array(0.03, np.float32),
    }
    attributes = {"out_features": out_features} | prefixed("norm", NORM) | prefixed("activation", activation)
    model = model_of("BitLinear", inputs, attributes, [TensorProto.FLOAT])
    expected = reference.bit_linear(*inputs.values(), out_features=out_features, norm=NORM, activation=activation)
    np.testing.assert_allclose(run(model, inputs, isa)[0], expected, rtol=1e-6, atol=1e-7)
    if isa == FUNCTION_BODIES:
        np.testing.assert_allclose(ReferenceEvaluator(model).run(None, inputs)[0], expected, rtol=1e-6, atol=1e-7)


@EVERY_ENGINE
@FEW
@given(st.integers(1, 40), st.integers(1, 60), st.integers(1, 5), st.booleans())
def test_int8_linear(isa, out_features, in_features, rows, one_bias):
    rng = np.random.default_rng([out_features, in_features])
    codes, scale = reference.quantize_int8(rng.standard_normal((out_features, in_features), np.float32))
    inputs = {
        "x": rng.standard_normal((2, rows, in_features), np.float32) * 30,
        "weight": pack_int8(codes),
        "scale": scale,
        "bias": rng.standard_normal(1 if one_bias else out_features, np.float32),
    }
    model = model_of("Int8Linear", inputs, {}, [TensorProto.FLOAT])
    expected = reference.int8_linear(*inputs.values())
    np.testing.assert_allclose(run(model, inputs, isa)[0], expected, rtol=1e-5, atol=1e-5)


@EVERY_ENGINE
def test_int8_linear_of_many_rows_with_and_without_outliers(isa):
    rng = np.random.default_rng(0)
    codes, scale = reference.quantize_int8(rng.standard_normal((40, 300), np.float32))
    tails = rng.standard_t(rng.choice([2.0, 4.0, 1000.0], (150, 1)), (150, 300))
    tails[::10] = np.sign(tails[::10])
    inputs = {
        "x": tails.astype(np.float32),
        "weight": pack_int8(codes),
        "scale": scale,
        "bias": np.zeros(1, np.float32),
    }
    model = model_of("Int8Linear", inputs, {}, [TensorProto.FLOAT])
    expected = reference.int8_linear(*inputs.values())
    np.testing.assert_allclose(run(model, inputs, isa)[0], expected, rtol=1e-5, atol=1e-5)


@EVERY_ENGINE
def test_rms_norm_of_rows_from_zero_to_huge(isa, ops):
    inputs = {"x": ops["rmsnorm_x"], "weight": ops["rmsnorm_weight"]}
    model = model_of("RmsNorm", inputs, asdict(NORM), [TensorProto.FLOAT])
    expected = reference.rms_norm(*inputs.values(), NORM)
    np.testing.assert_allclose(run(model, inputs, isa)[0], expected, rtol=1e-6, atol=1e-7)


@EVERY_ENGINE
@FEW
@given(st.integers(1, 70), st.integers(1, 5), st.sampled_from([1e-3, 1, 1e3]))
def test_layer_norm_and_gelu(isa, size, rows, spread):
    rng = np.random.default_rng([size, rows])
    x, weight, bias = (rng.standard_normal(shape, np.float32) for shape in ((2, rows, size), size, size))
    inputs = {"x": x * np.float32(spread) + 1, "weight": weight, "bias": bias}
    model = model_of("LayerNorm", inputs, {"eps": 1e-6}, [TensorProto.FLOAT])
    expected = reference.layer_norm(*inputs.values(), 1e-6)
    # The mean of large numbers is known to some last bits of theirs.
    np.testing.assert_allclose(run(model, inputs, isa)[0], expected, rtol=1e-4, atol=2e-5 / min(spread, 1) ** 0.5)
    inputs = {"x": x * np.float32(spread)}
    y = run(model_of("GeluTanh", inputs, {}, [TensorProto.FLOAT]), inputs, isa)[0]
    np.testing.assert_allclose(y, reference.gelu_tanh(inputs["x"]), rtol=1e-5, atol=1e-6)


@EVERY_ENGINE
@FEW
@given(
    st.tuples(st.integers(1, 40), st.integers(2, 40)),
    st.integers(2, 4),
    st.integers(1, 6),
    st.booleans(),
    st.booleans(),
    st.sampled_from([8, 4]),
)
def test_ternary_moe(isa, sizes, num_experts, rows, shared, hidden_norm, bits):
    hidden, intermediate = sizes
    rng = np.random.default_rng([hidden, intermediate, num_experts, rows])
    activation = reference.Activation(bits, 50.0, 1e-4)
    clips = reference.ExpertClips()
    total = num_experts + shared

    def normal(*shape: int) -> np.ndarray:
        return rng.standard_normal(shape, np.float32)

    def expert() -> np.ndarray:
        shapes = [(intermediate, hidden)] * 2 + [(hidden, intermediate)]
        return pack_expert(*(rng.integers(-1, 2, shape).astype(np.int8) for shape in shapes))

    weights = reference.ExpertWeights(
        gate_norm=normal(total, hidden),
        up_norm=normal(total, hidden),
        hidden_norm=normal(total, intermediate if hidden_norm else 1),
        down_norm=normal(total, intermediate),
        scales=np.abs(normal(total, 3)) / 20,
        packed=np.stack([expert() for _ in range(total)]),
    )
    inputs = {
        "x": normal(2, rows, hidden),
        "input_norm": normal(hidden),
        "router_weight": normal(num_experts, hidden),
        "router_bias": normal(num_experts),
    }
    attributes = {"top_k": 2} | prefixed("norm", NORM) | prefixed("activation", activation)
    attributes |= prefixed("input_norm", INPUT_NORM)
    attributes |= {f"{name}_clip": value for name, value in asdict(clips).items()}
    kinds = [TensorProto.FLOAT, TensorProto.INT64, TensorProto.FLOAT]
    model = model_of("TernaryMoE", inputs | vars(weights), attributes, kinds)
    y, chosen, mix = run(model, inputs | vars(weights), isa)
    expected_y, expected_chosen, expected_mix = reference.ternary_moe(
        *inputs.values(), weights, 2, INPUT_NORM, NORM, activation, clips
    )
    np.testing.assert_array_equal(chosen, expected_chosen)
    np.testing.assert_allclose(mix, expected_mix, atol=1e-6)
    # exp() of the gate differs in the last bit, which may move one code of the down projection.
    one_code = np.abs(weights.scales[:, 2]).max() * np.abs(weights.down_norm).max() * 10 / (2 ** (bits - 1) - 1)
    np.testing.assert_allclose(y, expected_y, atol=max(1e-5, 2.1 * one_code))
    assert np.median(np.abs(y - expected_y)) < 1e-5


@EVERY_ENGINE
@FEW
@given(st.integers(1, 40), st.integers(1, 60), st.lists(st.integers(0, 200), max_size=7))
def test_int8_embedding(isa, vocabulary, size, ids):
    codes, scale = reference.quantize_int8(np.random.default_rng(size).standard_normal((vocabulary, size), np.float32))
    inputs = {"ids": np.array(ids, np.int64)[None] % vocabulary, "weight": pack_int8(codes), "scale": scale}
    model = model_of("Int8Embedding", inputs, {"embedding_size": size}, [TensorProto.FLOAT], ranks=[3])
    y = run(model, inputs, isa)[0]
    np.testing.assert_array_equal(y, codes[inputs["ids"]] * scale[inputs["ids"]][..., None])
    np.testing.assert_array_equal(y, reference.int8_embedding(*inputs.values(), size))


@EVERY_ENGINE
@FEW
@given(
    st.integers(1, 2), st.integers(1, 30), st.integers(1, 40), st.integers(1, 3), st.sampled_from([1, 5, 16, 20, 64])
)
def test_multi_head_attention(isa, batch, tokens, keys, num_heads, size):
    rng = np.random.default_rng([batch, tokens, keys, num_heads, size])
    inputs = {
        name: rng.standard_normal((batch, rows, num_heads * size), np.float32)
        for name, rows in (("query", tokens), ("key", keys), ("value", keys))
    }
    model = model_of("MultiHeadAttention", inputs, {"num_heads": num_heads}, [TensorProto.FLOAT])
    expected = reference.multi_head_attention(*inputs.values(), num_heads)
    np.testing.assert_allclose(run(model, inputs, isa)[0], expected, rtol=1e-4, atol=1e-5)


def attention_inputs(
    batch: int, tokens: int, past: int, group: int, kv_heads: int, size: int, bits: int = 8, room: int | None = 3
) -> tuple[dict[str, np.ndarray], dict]:
    """A TernaryAttention: a first prompt with padding, or new tokens after up to `past` positions.

    room: of the cache, beside the new tokens; None = for the past alone.
    """
    rng = np.random.default_rng([batch, tokens, past, group, kv_heads, size])
    hidden, kv, total = group * kv_heads * size, kv_heads * size, past + tokens

    def matrix(rows: int) -> np.ndarray:
        return pack_ternary(rng.integers(-1, 2, (rows, hidden)).astype(np.int8))

    rows = past if room is None else total + room
    cache = rng.standard_normal((2, batch, kv_heads, rows, size), np.float32)
    lengths = rng.integers(tokens, total + 1, batch) if past else rng.integers(1, tokens + 1, batch)
    inputs = {
        "x": rng.standard_normal((batch, tokens, hidden), np.float32),
        "input_norm": rng.uniform(0.5, 1.5, hidden).astype(np.float32),
        "norms": rng.uniform(0.5, 1.5, (4, hidden)).astype(np.float32),
        "scales": rng.uniform(0.02, 0.1, 4).astype(np.float32),
        "query": matrix(hidden),
        "key": matrix(kv),
        "value": matrix(kv),
        "out": matrix(hidden),
        "past_key": cache[0],
        "past_value": cache[1],
        "seqlens_k": lengths.astype(np.int32) - 1,
        "total_sequence_length": np.array(total, np.int32),
        "cos_cache": np.cos(rng.uniform(0, 6, (total + 5, size // 2))).astype(np.float32),
        "sin_cache": np.sin(rng.uniform(0, 6, (total + 5, size // 2))).astype(np.float32),
    }
    attributes = {"num_heads": group * kv_heads, "kv_num_heads": kv_heads} | prefixed("input_norm", INPUT_NORM)
    attributes |= prefixed("norm", NORM) | prefixed("activation", reference.Activation(bits))
    return inputs, attributes


def attention_reference(inputs: dict[str, np.ndarray], attributes: dict) -> tuple[np.ndarray, ...]:
    values = list(inputs.values())
    return reference.ternary_attention(
        *values[:2],
        reference.AttentionWeights(*values[2:8]),
        reference.AttentionCache(*values[8:]),
        attributes["num_heads"],
        attributes["kv_num_heads"],
        INPUT_NORM,
        NORM,
        reference.Activation(attributes["activation_bits"]),
    )


@EVERY_ENGINE
@FEW
@given(st.data())
def test_ternary_attention(isa, data):
    batch, group, kv_heads = (data.draw(st.integers(1, high)) for high in (2, 3, 2))
    # ONNX Runtime's own operator wants sizes that are multiples of 16, and one new token after the first prompt if
    # the sequences of a batch differ in length.
    size = data.draw(st.sampled_from([16, 64] if isa == FUNCTION_BODIES else [2, 6, 16, 20, 64]))
    past = data.draw(st.integers(0, 30))
    tokens = data.draw(st.integers(1, 30 if past == 0 or batch == 1 else 1))
    bits, room = data.draw(st.sampled_from([8, 4])), data.draw(st.sampled_from([None, 0, 3]))
    inputs, attributes = attention_inputs(batch, tokens, past, group, kv_heads, size, bits, room)
    if batch == 1:
        inputs["seqlens_k"][:] = past + tokens - 1
    kinds = [TensorProto.FLOAT] * 3
    results = run(model_of("TernaryAttention", inputs, attributes, kinds, ranks=[3, 4, 4]), inputs, isa)
    expected = attention_reference(inputs, attributes)
    # A last bit may move one code: of the output projection everywhere, of keys in ONNX Runtime's own arithmetic.
    one_code = inputs["scales"].max() * inputs["norms"].max() * 10 / (2 ** (bits - 1) - 1)
    exact = 1e-5
    for b in range(batch):
        length = inputs["seqlens_k"][b] + 1
        # What is computed for padding, behind the end of a first prompt, means nothing.
        end = tokens if past else length
        pairs = [(results[0][b, :end], expected[0][b, :end], 2.1 * one_code)]
        for present, expected_present in zip(results[1:], expected[1:], strict=True):
            allowed = 2.1 * one_code if isa == FUNCTION_BODIES else exact
            pairs.append((present[b, :, :length], expected_present[b, :, :length], allowed))
        for found, wanted, allowed in pairs:
            np.testing.assert_allclose(found, wanted, atol=max(exact, allowed))
            error = np.abs(found - wanted)
            # One code of a row reaches every output by its weight: -1, 0 or 1 times one step.
            step = error.max(axis=-1, keepdims=True)
            is_one_code = (error < exact) | (step - error < exact)
            assert np.median(error) < exact or is_one_code.all()


@EVERY_ENGINE
def test_absurdly_large_inputs_are_clipped_and_stay_finite(isa):
    rng = np.random.default_rng(0)
    inputs = {
        "x": np.array([[3e38, -3e38, 1.0, 0.0]], np.float32),
        "norm_weight": np.ones(4, np.float32),
        "weight": pack_ternary(rng.integers(-1, 2, (8, 4)).astype(np.int8)),
        "scale": np.array(1.0, np.float32),
    }
    attributes = {"out_features": 8} | prefixed("norm", NORM) | prefixed("activation", reference.Activation())
    y = run(model_of("BitLinear", inputs, attributes, [TensorProto.FLOAT]), inputs, isa)[0]
    expected = reference.bit_linear(*inputs.values(), out_features=8, norm=NORM, activation=reference.Activation())
    np.testing.assert_allclose(y, expected, rtol=1e-6)
    assert np.isfinite(y).all()


# --- native operators only ------------------------------------------------------------------------------------------

needs_library = pytest.mark.skipif(find_library() is None, reason="installed without native operators")


def large_inputs(rows: int) -> tuple[dict[str, np.ndarray], dict]:
    """A BitLinear that is divided among threads."""
    rng = np.random.default_rng(rows)
    inputs = {
        "x": rng.standard_normal((rows, 700), np.float32),
        "norm_weight": rng.standard_normal(700, np.float32),
        "weight": pack_ternary(rng.integers(-1, 2, (3000, 700), np.int8)),
        "scale": np.array(0.03, np.float32),
    }
    return inputs, {"out_features": 3000}


@needs_library
@pytest.mark.parametrize("tokens", [1, 90])
def test_threads_and_instruction_sets_change_no_bit_of_attention(tokens):
    inputs, attributes = attention_inputs(1, tokens, 70, 2, 3, 64)
    inputs["seqlens_k"][:] = 69 + tokens
    model = model_of("TernaryAttention", inputs, attributes, [TensorProto.FLOAT] * 3, ranks=[3, 4, 4])
    results = [run(model, inputs, isa, threads) for isa in supported_isas() for threads in (1, 2, 4)]
    assert all(np.array_equal(a, b) for result in results for a, b in zip(result, results[0], strict=True))


@needs_library
@pytest.mark.parametrize("isa", supported_isas())
def test_a_token_gets_the_same_bits_alone_as_among_others(isa):
    inputs, attributes = attention_inputs(1, 40, 0, 2, 3, 20)
    inputs["seqlens_k"][:] = 39

    def attend(begin: int, end: int, past: dict[str, np.ndarray]) -> list[np.ndarray]:
        lengths = {"seqlens_k": np.array([end - 1], np.int32), "total_sequence_length": np.array(end, np.int32)}
        given = inputs | lengths | past | {"x": inputs["x"][:, begin:end]}
        return run(
            model_of("TernaryAttention", given, attributes, [TensorProto.FLOAT] * 3, ranks=[3, 4, 4]), given, isa
        )

    together = attend(0, 40, {})
    parts, past = [], {"past_key": inputs["past_key"], "past_value": inputs["past_value"]}
    for begin, end in ((0, 9), (9, 10), (10, 11), (11, 40)):
        y, *present = attend(begin, end, past)
        parts.append(y)
        past = dict(zip(past, present, strict=True))
    np.testing.assert_array_equal(np.concatenate(parts, axis=1), together[0])
    for present, expected in zip(past.values(), together[1:], strict=True):
        np.testing.assert_array_equal(present, expected)


@needs_library
@pytest.mark.parametrize("rows", [1, 7, 150])
def test_threads_and_instruction_sets_change_no_bit(rows):
    inputs, attributes = large_inputs(rows)
    model = model_of("BitLinear", inputs, attributes, [TensorProto.FLOAT])
    results = [run(model, inputs, isa, threads)[0] for isa in supported_isas() for threads in (1, 2, 4)]
    assert all(np.array_equal(result, results[0]) for result in results)
    norm, activation = reference.Norm(), reference.Activation()
    expected = reference.bit_linear(*inputs.values(), out_features=3000, norm=norm, activation=activation)
    np.testing.assert_array_equal(results[0], expected)


@needs_library
def test_an_unknown_instruction_set_is_refused():
    inputs, attributes = large_inputs(1)
    model = model_of("BitLinear", inputs, attributes, [TensorProto.FLOAT])
    with pytest.raises(Exception, match="EMBERNET_ISA names no instruction set of this CPU"):
        run(model, inputs, "pdp11")


def small_moe() -> tuple[dict[str, np.ndarray], dict]:
    """4 routed experts and a shared one, 32 -> 48 -> 32."""
    rng = np.random.default_rng(0)
    shapes = [(48, 32), (48, 32), (32, 48)]
    experts = [pack_expert(*(rng.integers(-1, 2, shape, np.int8) for shape in shapes)) for _ in range(5)]
    inputs = {
        "x": rng.standard_normal((2, 32), np.float32),
        "input_norm": np.ones(32, np.float32),
        "router_weight": rng.standard_normal((4, 32), np.float32),
        "router_bias": np.zeros(4, np.float32),
        "gate_norm": np.ones((5, 32), np.float32),
        "up_norm": np.ones((5, 32), np.float32),
        "hidden_norm": np.ones((5, 48), np.float32),
        "down_norm": np.ones((5, 48), np.float32),
        "scales": np.ones((5, 3), np.float32),
        "packed": np.stack(experts),
    }
    return inputs, {"top_k": 2}


def small_int8() -> tuple[dict[str, np.ndarray], dict]:
    inputs = {
        "x": np.ones((2, 24), np.float32),
        "weight": np.ones((2, 6, 64), np.int8),
        "scale": np.ones(20, np.float32),
        "bias": np.zeros(20, np.float32),
    }
    return inputs, {}


def small_norm() -> tuple[dict[str, np.ndarray], dict]:
    return {"x": np.ones((2, 24), np.float32), "weight": np.ones(24, np.float32)}, {}


def small_embedding() -> tuple[dict[str, np.ndarray], dict]:
    inputs = {
        "ids": np.array([[3, 19]], np.int64),
        "weight": np.ones((2, 6, 64), np.int8),
        "scale": np.ones(20, np.float32),
    }
    return inputs, {"embedding_size": 24}


def small_heads() -> tuple[dict[str, np.ndarray], dict]:
    return {name: np.ones((2, 5, 24), np.float32) for name in ("query", "key", "value")}, {"num_heads": 4}


WELL_FORMED = {
    "BitLinear": lambda: large_inputs(1),
    "Int8Embedding": small_embedding,
    "GeluTanh": lambda: ({"x": np.ones((2, 24), np.float32)}, {}),
    "LayerNorm": lambda: ({"x": np.ones((2, 24), np.float32)} | dict.fromkeys(("weight", "bias"), zeros(24)), {}),
    "MultiHeadAttention": small_heads,
    "TernaryAttention": lambda: attention_inputs(2, 4, 0, 2, 2, 8),  # hidden size 32
    "Int8Linear": small_int8,
    "RmsNorm": small_norm,
    "TernaryMoE": small_moe,
}


def run_as_it_is(op_type: str, inputs: dict[str, np.ndarray], attributes: dict) -> list[np.ndarray]:
    """Run one node that nobody checked, with the native operators."""
    values = [
        helper.make_tensor_value_info(n, helper.np_dtype_to_tensor_dtype(a.dtype), None) for n, a in inputs.items()
    ]
    outputs = ["y", "present_key", "present_value"] if op_type == "TernaryAttention" else ["y"]
    node = helper.make_node(op_type, list(inputs), outputs, domain=DOMAIN, **attributes)
    output = helper.make_tensor_value_info("y", TensorProto.FLOAT, None)
    opsets = [helper.make_opsetid("", OPSET), helper.make_opsetid(DOMAIN, 1)]
    model = helper.make_model(helper.make_graph([node], "one", values, [output]), opset_imports=opsets, ir_version=10)
    return run(model, inputs, supported_isas()[0])


@needs_library
@pytest.mark.parametrize("op_type", WELL_FORMED)
def test_well_formed_nodes_run_unchecked(op_type):
    (y,) = run_as_it_is(op_type, *WELL_FORMED[op_type]())
    assert np.isfinite(y).all()


def zeros(*shape: int, dtype: type = np.float32) -> np.ndarray:
    return np.zeros(shape, dtype)


@needs_library
@pytest.mark.parametrize(
    ("op_type", "replaced", "attributes", "match"),
    [
        (
            "BitLinear",
            {"weight": zeros(1, 2, 64, dtype=np.uint8)},
            {},
            "weight does not fit 3000 outputs and 700 inputs",
        ),
        ("BitLinear", {"weight": zeros(188, 44, 63, dtype=np.uint8)}, {}, "weight does not fit"),
        ("BitLinear", {"weight": zeros(188 * 44 * 64, dtype=np.uint8)}, {}, "weight does not fit"),
        ("BitLinear", {"norm_weight": zeros(699)}, {}, "norm_weight has 699 elements, expected 700"),
        ("BitLinear", {"scale": zeros(2)}, {}, "scale has 2 elements"),
        ("BitLinear", {"x": zeros(1, 0)}, {}, "the last axis of x"),
        ("BitLinear", {"x": zeros(1, 200_000)}, {}, "the last axis of x"),
        ("BitLinear", {}, {"out_features": 3100}, "weight does not fit 3100"),
        ("BitLinear", {}, {"out_features": -5}, "out_features must be positive"),
        ("BitLinear", {}, {"out_features": 2**62}, "weight does not fit"),
        ("BitLinear", {}, {"activation_bits": 64}, "activation_bits must be 2 to 8"),
        ("Int8Linear", {"weight": zeros(2, 5, 64, dtype=np.int8)}, {}, "weight does not fit 20 outputs and 24 inputs"),
        ("Int8Linear", {"scale": zeros(400)}, {}, "weight does not fit 400"),
        ("Int8Linear", {"bias": zeros(19)}, {}, "bias has 19 elements"),
        ("Int8Linear", {"x": np.array(1.0, np.float32)}, {}, "the last axis of x"),
        ("Int8Embedding", {"ids": np.array([20], np.int64)}, {}, "id 20 is not in a vocabulary of 20"),
        ("Int8Embedding", {"ids": np.array([-1], np.int64)}, {}, "id -1 is not in a vocabulary of 20"),
        ("Int8Embedding", {"weight": zeros(2, 5, 64, dtype=np.int8)}, {}, "weight does not fit 20 outputs and 24"),
        ("Int8Embedding", {"scale": zeros(33)}, {}, "weight does not fit 33 outputs"),
        ("Int8Embedding", {}, {"embedding_size": 0}, "embedding_size must be positive"),
        ("Int8Embedding", {}, {"embedding_size": 2**62}, "weight does not fit"),
        ("GeluTanh", {"x": np.array(1.0, np.float32)}, {}, "the last axis of x"),
        ("LayerNorm", {"weight": zeros(23)}, {}, "weight has 23 elements, expected 24"),
        ("LayerNorm", {"bias": zeros(25)}, {}, "bias has 25 elements, expected 24"),
        ("MultiHeadAttention", {"query": zeros(2, 5, 25)}, {}, "query must have three axes"),
        ("MultiHeadAttention", {"query": zeros(5, 24)}, {}, "query must have three axes"),
        ("MultiHeadAttention", {"key": zeros(2, 0, 24)}, {}, "at least one row"),
        ("MultiHeadAttention", {"key": zeros(3, 5, 24)}, {}, r"key must have the shape \(2, 5, 24\)"),
        ("MultiHeadAttention", {"value": zeros(2, 4, 24)}, {}, r"value must have the shape \(2, 5, 24\)"),
        ("MultiHeadAttention", {}, {"num_heads": 0}, "num_heads must be positive"),
        ("MultiHeadAttention", {}, {"num_heads": 2**62}, "query must have three axes"),
        ("TernaryAttention", {"x": zeros(2, 4, 33)}, {}, "a multiple of num_heads"),
        ("TernaryAttention", {"x": zeros(4, 32)}, {}, "x must have three axes"),
        ("TernaryAttention", {"x": zeros(2, 4, 64)}, {}, "input_norm has 32 elements, expected 64"),
        ("TernaryAttention", {"norms": zeros(3, 32)}, {}, "norms has 96 elements"),
        ("TernaryAttention", {"scales": zeros(3)}, {}, "scales has 3 elements"),
        ("TernaryAttention", {"query": zeros(1, 2, 64, dtype=np.uint8)}, {}, "query does not fit 32 outputs"),
        ("TernaryAttention", {"value": zeros(2, 2, 64, dtype=np.uint8)}, {}, "value does not fit 16 outputs"),
        ("TernaryAttention", {"past_key": zeros(2, 1, 3, 8)}, {}, "past_key and past_value must have the shape"),
        ("TernaryAttention", {"past_value": zeros(2, 2, 2, 8)}, {}, "past_key and past_value must have the shape"),
        ("TernaryAttention", {"past_key": zeros(2, 2, 3)}, {}, "past_key and past_value must have the shape"),
        ("TernaryAttention", {"seqlens_k": np.array([3], np.int32)}, {}, "seqlens_k has 1 elements"),
        ("TernaryAttention", {"total_sequence_length": np.array(3, np.int32)}, {}, "total_sequence_length is 3"),
        ("TernaryAttention", {"total_sequence_length": np.array(10, np.int32)}, {}, "and at most 9 positions"),
        (
            "TernaryAttention",
            {"total_sequence_length": np.array(9, np.int32), "seqlens_k": np.array([8, 8], np.int32)}
            | {"past_key": zeros(2, 2, 3, 8), "past_value": zeros(2, 2, 3, 8)},
            {},
            "seqlens_k says 8: the past has 3 positions",
        ),
        (
            "TernaryAttention",
            {"total_sequence_length": np.array(6, np.int32), "seqlens_k": np.array([3, -(2**31)], np.int32)},
            {},
            "seqlens_k says -2147483648",
        ),
        ("TernaryAttention", {"cos_cache": zeros(9, 3)}, {}, r"cos_cache must have the shape \(positions, 4\)"),
        ("TernaryAttention", {"sin_cache": zeros(8, 4)}, {}, "sin_cache has 32 elements, expected 36"),
        ("TernaryAttention", {}, {"num_heads": 3}, "num_heads must be a positive multiple"),
        ("TernaryAttention", {}, {"kv_num_heads": 0}, "num_heads must be a positive multiple"),
        ("TernaryAttention", {}, {"num_heads": 2**62}, "a multiple of num_heads"),
        ("TernaryAttention", {}, {"activation_bits": 9}, "activation_bits must be 2 to 8"),
        ("RmsNorm", {"weight": zeros(23)}, {}, "weight has 23 elements, expected 24"),
        ("RmsNorm", {"x": np.array(1.0, np.float32)}, {}, "the last axis of x"),
        (
            "TernaryMoE",
            {"packed": zeros(5, 1000, dtype=np.uint8)},
            {},
            "an expert has 1000 bytes, expected 1152 or more",
        ),
        ("TernaryMoE", {"packed": zeros(7, 1152, dtype=np.uint8)}, {}, "7 experts are packed, 4 are routed"),
        ("TernaryMoE", {"packed": zeros(3, 1152, dtype=np.uint8)}, {}, "3 experts are packed"),
        ("TernaryMoE", {"packed": zeros(5 * 1152, dtype=np.uint8)}, {}, "must be matrices"),
        ("TernaryMoE", {"router_weight": zeros(4, 31)}, {}, "router_weight has 124 elements"),
        ("TernaryMoE", {"router_bias": zeros(3)}, {}, "router_bias has 3 elements"),
        ("TernaryMoE", {"gate_norm": zeros(4, 32)}, {}, "gate_norm has 128 elements"),
        ("TernaryMoE", {"up_norm": zeros(5)}, {}, "up_norm has 5 elements"),
        ("TernaryMoE", {"hidden_norm": zeros(5, 47)}, {}, "hidden_norm has 235 elements"),
        ("TernaryMoE", {"down_norm": zeros(5, 4800)}, {}, "hidden_norm has 240 elements"),
        ("TernaryMoE", {"down_norm": zeros(5, 0)}, {}, "down_norm must have 1 to"),
        ("TernaryMoE", {"scales": zeros(5, 2)}, {}, "scales has 10 elements"),
        ("TernaryMoE", {"x": zeros(2, 0)}, {}, "the last axis of x"),
        ("TernaryMoE", {}, {"top_k": 0}, "top_k must be positive"),
        ("TernaryMoE", {}, {"top_k": 5}, "top_k is 5"),
        ("TernaryMoE", {}, {"top_k": 2**62}, "top_k is"),
        ("TernaryMoE", {}, {"activation_bits": -8}, "activation_bits must be 2 to 8"),
    ],
)
def test_malformed_nodes_are_errors_never_crashes(op_type, replaced, attributes, match):
    inputs, given_attributes = WELL_FORMED[op_type]()
    with pytest.raises(Exception, match=match):
        run_as_it_is(op_type, inputs | replaced, given_attributes | attributes)


@pytest.mark.parametrize("function", operator_functions(), ids=lambda f: f.name)
def test_every_function_imports_the_opsets_it_uses(function):
    assert {o.domain: o.version for o in function.opset_import} == OPSETS
