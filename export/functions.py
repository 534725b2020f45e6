# mypy: ignore-errors
"""The operators of `ai.embernet`, version 1, as ONNX functions: what a runtime without the native library executes.

`embernet.runtime.reference` is the definition and docs/operators.md explains it; names follow both. The bodies are
onnxscript: Python syntax that is translated to a graph and never run as Python. Attention is ONNX Runtime's own there.

T rows, K inputs, N outputs; Kp, Np: the same, padded to whole groups of 16. X experts with the shared one, E without.
"""

import onnx
from onnxscript import opset21 as op
from onnxscript import script, values

DOMAIN = "ai.embernet"
OPSET = 21
OPSETS = {"": OPSET, DOMAIN: 1, "com.microsoft": 1}

ember = values.Opset(DOMAIN, 1)
microsoft = values.Opset("com.microsoft", 1)


@script(ember)
def RmsNorm(x, weight, eps: float = 1e-5, input_clip: float = 100.0, output_clip: float = 10.0):
    clipped = op.Clip(x, -input_clip, input_clip)
    # The mean is summed in float64: no order of summation can change an activation code.
    mean = op.Cast(op.ReduceMean(op.Cast(clipped * clipped, to=11), [-1]), to=1)
    variance = op.Max(mean, eps)
    one = op.Constant(value_float=1.0)
    scaled = clipped * (one / op.Sqrt(variance + eps))
    return weight * op.Clip(scaled, -output_clip, output_clip)


@script(ember)
def LayerNorm(x, weight, bias, eps: float = 1e-5):
    return op.LayerNormalization(x, weight, bias, axis=-1, epsilon=eps)


@script(ember)
def GeluTanh(x):
    return op.Gelu(x, approximate="tanh")


@script(ember)
def QuantizeRows(x, bits: int = 8, clip: float = 128.0, floor: float = 1e-5):
    levels = op.Cast(op.Pow(op.Constant(value_int=2), bits - 1), to=1)
    one = op.Constant(value_float=1.0)
    limit = levels - one
    clipped = op.Clip(x, -clip, clip)
    largest = op.Max(op.ReduceMax(op.Abs(clipped), [-1]), floor)
    scale = limit * (one / largest)
    codes = op.Clip(op.Round(clipped * scale), -levels, limit)
    step = one / scale
    return codes, step


@script(ember)
def TernaryProduct(codes, packed):
    """codes (T, K), packed R16K16 -> (T, Np), exact integers as float32."""
    fields = op.BitShift(
        op.Unsqueeze(packed, [-1]), op.Cast(op.Constant(value_ints=[0, 2, 4, 6]), to=2), direction="RIGHT"
    )
    weights = op.Cast(op.BitwiseAnd(fields, op.Cast(op.Constant(value_int=3), to=2)), to=1) - op.Constant(
        value_float=1.0
    )
    # (tiles, groups, 16 rows, 16 inputs in the order b*4+p) -> (Np, Kp)
    rows = op.Transpose(op.Reshape(weights, [0, 0, 16, 16]), perm=[0, 2, 1, 3])
    padded_inputs = op.Shape(packed, start=1, end=2) * 16
    matrix = op.Reshape(rows, op.Concat([-1], padded_inputs, axis=0))
    # Instead of the weights, the activations are brought into the order b*4+p.
    missing = padded_inputs - op.Shape(codes, start=1, end=2)
    padded = op.Pad(codes, op.Concat([0, 0, 0], missing, axis=0))
    ordered = op.Transpose(op.Reshape(padded, [0, -1, 4, 4]), perm=[0, 1, 3, 2])
    return op.Gemm(op.Reshape(ordered, op.Concat([-1], padded_inputs, axis=0)), matrix, transB=1)


@script(ember)
def TernaryLinear(
    x,
    norm_weight,
    weight,
    scale,
    out_features,
    norm_eps: float,
    norm_input_clip: float,
    norm_output_clip: float,
    activation_bits: int,
    activation_clip: float,
    activation_floor: float,
):
    """BitLinear; out_features is a tensor of shape (1)."""
    normed = ember.RmsNorm(x, norm_weight, eps=norm_eps, input_clip=norm_input_clip, output_clip=norm_output_clip)
    rows = op.Reshape(normed, op.Concat([-1], op.Shape(norm_weight), axis=0))
    codes, step = ember.QuantizeRows(rows, bits=activation_bits, clip=activation_clip, floor=activation_floor)
    product = op.Slice(ember.TernaryProduct(codes, weight), [0], out_features, [1])
    y = product * (step * scale)
    return op.Reshape(y, op.Concat(op.Shape(x, end=-1), out_features, axis=0))


@script(ember)
def BitLinear(
    x,
    norm_weight,
    weight,
    scale,
    out_features: int,
    norm_eps: float = 1e-5,
    norm_input_clip: float = 100.0,
    norm_output_clip: float = 10.0,
    activation_bits: int = 8,
    activation_clip: float = 128.0,
    activation_floor: float = 1e-5,
):
    return ember.TernaryLinear(
        x,
        norm_weight,
        weight,
        scale,
        op.Reshape(op.Constant(value_int=out_features), [1]),
        norm_eps=norm_eps,
        norm_input_clip=norm_input_clip,
        norm_output_clip=norm_output_clip,
        activation_bits=activation_bits,
        activation_clip=activation_clip,
        activation_floor=activation_floor,
    )


@script(ember)
def Int8Linear(x, weight, scale, bias):
    inputs = op.Shape(x, start=-1)
    rows = op.Reshape(x, op.Concat([-1], inputs, axis=0))
    codes, step = ember.QuantizeRows(rows, bits=8, clip=3.4028234663852886e38, floor=1e-8)
    # R16K4 (tiles, groups, 16 rows, 4 inputs) -> (Np, Kp)
    padded_inputs = op.Shape(weight, start=1, end=2) * 4
    tiles = op.Transpose(op.Reshape(op.Cast(weight, to=1), [0, 0, 16, 4]), perm=[0, 2, 1, 3])
    matrix = op.Reshape(tiles, op.Concat([-1], padded_inputs, axis=0))
    padded = op.Pad(codes, op.Concat([0, 0, 0], padded_inputs - inputs, axis=0))
    width = op.Shape(scale)
    product = op.Slice(op.Gemm(padded, matrix, transB=1), [0], width, [1])
    y = product * (step * scale) + bias
    return op.Reshape(y, op.Concat(op.Shape(x, end=-1), width, axis=0))


@script(ember)
def Int8Embedding(ids, weight, scale, embedding_size: int):
    # R16K4 seen as (tile, group, row, input): a row of the table is one 4-byte piece of every group.
    tiles = op.Reshape(weight, [0, 0, 16, 4])
    groups = op.Shape(weight, start=1, end=2)
    row_index = op.Unsqueeze(ids, [-1])
    index_shape = op.Concat(op.Shape(ids), groups, axis=0)
    indices = op.Concat(
        op.Unsqueeze(op.Expand(row_index / 16, index_shape), [-1]),
        op.Unsqueeze(op.Expand(op.Range(0, op.Squeeze(groups), 1), index_shape), [-1]),
        op.Unsqueeze(op.Expand(op.Mod(row_index, 16), index_shape), [-1]),
        axis=-1,
    )
    pieces = op.Cast(op.GatherND(tiles, indices), to=1)  # (..., groups, 4)
    flat = op.Reshape(pieces, op.Concat(op.Shape(ids), groups * 4, axis=0))
    values = op.Slice(flat, [0], op.Reshape(op.Constant(value_int=embedding_size), [1]), [-1])
    return values * op.Gather(scale, row_index)


@script(ember)
def Expert(
    x,
    gate_norm,
    up_norm,
    hidden_norm,
    down_norm,
    scales,
    packed,
    norm_eps: float,
    norm_input_clip: float,
    norm_output_clip: float,
    activation_bits: int,
    activation_clip: float,
    activation_floor: float,
    gate_clip: float,
    hidden_clip: float,
):
    """x (T, H), one expert's rows of the inputs of TernaryMoE -> (T, H)."""
    hidden = op.Shape(gate_norm)
    intermediate = op.Shape(down_norm)
    hidden_groups = (hidden + 15) / 16
    intermediate_groups = (intermediate + 15) / 16
    gate_up_bytes = hidden_groups * intermediate_groups * 128
    down_end = gate_up_bytes + hidden_groups * intermediate_groups * 64
    gate_up = op.Reshape(
        op.Slice(packed, [0], gate_up_bytes, [0]), op.Concat(intermediate_groups, [2], hidden_groups, [64], axis=0)
    )
    down = op.Reshape(
        op.Slice(packed, gate_up_bytes, down_end, [0]), op.Concat(hidden_groups, intermediate_groups, [64], axis=0)
    )

    normed = ember.RmsNorm(x, gate_norm, eps=norm_eps, input_clip=norm_input_clip, output_clip=norm_output_clip)
    codes, step = ember.QuantizeRows(normed, bits=activation_bits, clip=activation_clip, floor=activation_floor)
    product = ember.TernaryProduct(codes, op.Gather(gate_up, 0, axis=1))
    gate = op.Slice(product, [0], intermediate, [1]) * (step * op.Gather(scales, 0))
    gate = op.Clip(gate, -gate_clip, gate_clip)

    normed = ember.RmsNorm(x, up_norm, eps=norm_eps, input_clip=norm_input_clip, output_clip=norm_output_clip)
    codes, step = ember.QuantizeRows(normed, bits=activation_bits, clip=activation_clip, floor=activation_floor)
    product = ember.TernaryProduct(codes, op.Gather(gate_up, 1, axis=1))
    up = op.Slice(product, [0], intermediate, [1]) * (step * op.Gather(scales, 1))

    h = op.Clip(gate * op.Sigmoid(gate) * up, -hidden_clip, hidden_clip)
    if op.Size(hidden_norm) == op.Size(down_norm):  # otherwise it is a placeholder of size 1
        h_in = ember.RmsNorm(h, hidden_norm, eps=norm_eps, input_clip=norm_input_clip, output_clip=norm_output_clip)
    else:
        h_in = op.Identity(h)
    normed = ember.RmsNorm(h_in, down_norm, eps=norm_eps, input_clip=norm_input_clip, output_clip=norm_output_clip)
    codes, step = ember.QuantizeRows(normed, bits=activation_bits, clip=activation_clip, floor=activation_floor)
    product = ember.TernaryProduct(codes, down)
    return op.Slice(product, [0], hidden, [1]) * (step * op.Gather(scales, 2))


@script(ember)
def TernaryMoE(
    x,
    input_norm,
    router_weight,
    router_bias,
    gate_norm,
    up_norm,
    hidden_norm,
    down_norm,
    scales,
    packed,
    top_k: int,
    input_norm_eps: float = 1e-5,
    input_norm_input_clip: float = 100.0,
    input_norm_output_clip: float = 10.0,
    norm_eps: float = 1e-5,
    norm_input_clip: float = 100.0,
    norm_output_clip: float = 10.0,
    activation_bits: int = 8,
    activation_clip: float = 128.0,
    activation_floor: float = 1e-5,
    gate_clip: float = 20.0,
    hidden_clip: float = 1000.0,
    output_clip: float = 1e4,
):
    normed = ember.RmsNorm(
        x,
        input_norm,
        eps=input_norm_eps,
        input_clip=input_norm_input_clip,
        output_clip=input_norm_output_clip,
    )
    rows = op.Reshape(normed, op.Concat([-1], op.Shape(router_weight, start=1), axis=0))
    logits64 = op.MatMul(op.Cast(rows, to=11), op.Transpose(op.Cast(router_weight, to=11), perm=[1, 0]))
    logits = op.Cast(logits64 + op.Cast(router_bias, to=11), to=1)
    k = op.Reshape(op.Constant(value_int=top_k), [1])
    top, chosen = op.TopK(op.Softmax(logits, axis=-1), k)
    weights = top / (op.ReduceSum(top, [-1]) + 1e-8)

    # mix (T, X): the weight of every expert for every row; 1 for the shared one, which follows the E routed ones.
    num_experts = op.Shape(router_weight, start=0, end=1)
    one_hot = op.OneHot(chosen, num_experts, op.Constant(value_floats=[0.0, 1.0]))
    routed = op.ReduceSum(one_hot * op.Unsqueeze(weights, [-1]), [1], keepdims=0)
    total = op.Shape(packed, start=0, end=1)
    mix = op.Pad(routed, op.Concat([0, 0, 0], total - num_experts, axis=0), op.Constant(value_float=1.0))

    y = rows - rows
    for index in range(op.Squeeze(total)):
        column = op.Unsqueeze(op.Gather(mix, index, axis=1), [-1])
        if op.ReduceMax(column, keepdims=0) > 0.0:
            part = column * ember.Expert(
                rows,
                op.Gather(gate_norm, index),
                op.Gather(up_norm, index),
                op.Gather(hidden_norm, index),
                op.Gather(down_norm, index),
                op.Gather(scales, index),
                op.Gather(packed, index),
                norm_eps=norm_eps,
                norm_input_clip=norm_input_clip,
                norm_output_clip=norm_output_clip,
                activation_bits=activation_bits,
                activation_clip=activation_clip,
                activation_floor=activation_floor,
                gate_clip=gate_clip,
                hidden_clip=hidden_clip,
            )
        else:
            part = y - y
        y = y + part

    y = x + op.Reshape(op.Clip(y, -output_clip, output_clip), op.Shape(x))
    lead = op.Concat(op.Shape(x, end=-1), k, axis=0)
    return y, op.Reshape(chosen, lead), op.Reshape(weights, lead)


@script(ember)
def TernaryAttention(
    x,
    input_norm,
    norms,
    scales,
    query,
    key,
    value,
    out,
    past_key,
    past_value,
    seqlens_k,
    total_sequence_length,
    cos_cache,
    sin_cache,
    num_heads: int,
    kv_num_heads: int,
    input_norm_eps: float = 1e-5,
    input_norm_input_clip: float = 100.0,
    input_norm_output_clip: float = 10.0,
    norm_eps: float = 1e-5,
    norm_input_clip: float = 100.0,
    norm_output_clip: float = 10.0,
    activation_bits: int = 8,
    activation_clip: float = 128.0,
    activation_floor: float = 1e-5,
):
    h = ember.RmsNorm(
        x,
        input_norm,
        eps=input_norm_eps,
        input_clip=input_norm_input_clip,
        output_clip=input_norm_output_clip,
    )
    hidden = op.Shape(input_norm)
    kv_size = op.Shape(past_key, start=1, end=2) * op.Shape(past_key, start=3, end=4)
    q = ember.TernaryLinear(
        h,
        op.Gather(norms, 0),
        query,
        op.Gather(scales, 0),
        hidden,
        norm_eps=norm_eps,
        norm_input_clip=norm_input_clip,
        norm_output_clip=norm_output_clip,
        activation_bits=activation_bits,
        activation_clip=activation_clip,
        activation_floor=activation_floor,
    )
    k = ember.TernaryLinear(
        h,
        op.Gather(norms, 1),
        key,
        op.Gather(scales, 1),
        kv_size,
        norm_eps=norm_eps,
        norm_input_clip=norm_input_clip,
        norm_output_clip=norm_output_clip,
        activation_bits=activation_bits,
        activation_clip=activation_clip,
        activation_floor=activation_floor,
    )
    v = ember.TernaryLinear(
        h,
        op.Gather(norms, 2),
        value,
        op.Gather(scales, 2),
        kv_size,
        norm_eps=norm_eps,
        norm_input_clip=norm_input_clip,
        norm_output_clip=norm_output_clip,
        activation_bits=activation_bits,
        activation_clip=activation_clip,
        activation_floor=activation_floor,
    )
    attended, present_key, present_value = microsoft.GroupQueryAttention(
        q,
        k,
        v,
        past_key,
        past_value,
        seqlens_k,
        total_sequence_length,
        cos_cache,
        sin_cache,
        num_heads=num_heads,
        kv_num_heads=kv_num_heads,
        do_rotary=1,
    )
    y = ember.TernaryLinear(
        attended,
        op.Gather(norms, 3),
        out,
        op.Gather(scales, 3),
        hidden,
        norm_eps=norm_eps,
        norm_input_clip=norm_input_clip,
        norm_output_clip=norm_output_clip,
        activation_bits=activation_bits,
        activation_clip=activation_clip,
        activation_floor=activation_floor,
    )
    return x + y, present_key, present_value


@script(ember)
def MultiHeadAttention(query, key, value, num_heads: int):
    return op.Cast(microsoft.MultiHeadAttention(query, key, value, num_heads=num_heads), to=1)


def operator_functions() -> list[onnx.FunctionProto]:
    """The function bodies of every operator."""
    protos = []
    functions = (
        RmsNorm,
        LayerNorm,
        GeluTanh,
        QuantizeRows,
        TernaryProduct,
        TernaryLinear,
        BitLinear,
        Int8Linear,
        Int8Embedding,
        Expert,
        TernaryMoE,
        TernaryAttention,
        MultiHeadAttention,
    )
    imports = [onnx.helper.make_opsetid(domain, version) for domain, version in OPSETS.items()]
    for function in functions:
        proto = function.to_function_proto()
        del proto.opset_import[:]  # onnxscript overlooks calls inside a loop
        proto.opset_import.extend(imports)
        protos.append(proto)
    return protos
