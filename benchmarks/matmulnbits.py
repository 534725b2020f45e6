"""Time our BitLinear against ONNX Runtime's own MatMulNBits, both as operators in a session of ONNX Runtime.

    python -m benchmarks.matmulnbits

A graph multiplies one input by many matrices of a shape, more of them than caches hold. MatMulNBits has 2 and 4 bits,
blocks of 128 inputs and int8 activations (accuracy_level 4), its fastest. BitLinear also normalises its input, once
per matrix; MatMulNBits does not. Needs the package `onnx`; about two minutes.
"""

import statistics
import time
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from benchmarks.common import Record, program_parser, say, turns
from embernet.runtime.native_library import isa_in_use, library_in_use
from embernet.runtime.packing import pack_ternary

SHAPES = ((2048, 768), (768, 2048))  # rows, inputs
ACTIVATIONS = (1, 84)  # rows: a token, a prompt
WEIGHTS = 2**28  # of all matrices of a graph: 64 MiB at 2 bits
BLOCK = 128
CONTESTANTS = ("embernet", "MatMulNBits 2", "MatMulNBits 4")


class Operator:
    """A graph of many matrices and one kind of operator, in a session with arrays bound to its inputs and outputs."""

    def __init__(self, kind: str, codes: NDArray[np.int8], threads: int) -> None:
        """codes (matrices, rows, inputs): ternary weights. kind: "embernet" or "MatMulNBits N"."""
        self._rows, self._inputs = codes.shape[1:]
        nodes: list[onnx.NodeProto] = []
        constants: list[onnx.TensorProto] = []
        for index, matrix in enumerate(codes):
            node, tensors = (_bit_linear if kind == "embernet" else _mat_mul_n_bits(int(kind[-1])))(matrix, index)
            nodes.append(node)
            constants += tensors
        self._outputs = [node.output[0] for node in nodes]
        graph = helper.make_graph(
            nodes,
            kind,
            [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["count", self._inputs])],
            [helper.make_tensor_value_info(n, TensorProto.FLOAT, ["count", self._rows]) for n in self._outputs],
            constants,
        )
        domains = (("", 21), ("com.microsoft", 1), ("ai.embernet", 1))
        opsets = [helper.make_opsetid(*domain) for domain in domains]
        model = helper.make_model(graph, opset_imports=opsets, ir_version=10)
        options = ort.SessionOptions()
        options.log_severity_level = 3
        options.intra_op_num_threads = threads
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")  # as the runtime does
        options.register_custom_ops_library(str(library_in_use()))
        self._session = ort.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])

    def bind(self, x: NDArray[np.float32]) -> Any:
        binding = self._session.io_binding()
        binding.bind_ortvalue_input("x", ort.OrtValue.ortvalue_from_numpy(x))
        for name in self._outputs:
            value = ort.OrtValue.ortvalue_from_shape_and_type([len(x), self._rows], np.float32, "cpu", 0)
            binding.bind_ortvalue_output(name, value)
        return binding

    def seconds(self, binding: Any) -> float:
        """Wall time of one run."""
        started = time.perf_counter()
        self._session.run_with_iobinding(binding)
        return time.perf_counter() - started


def require_same(results: dict[str, NDArray[np.float32]]) -> None:
    """SystemExit if an operator computes something else; each rounds its activations in blocks of its own."""
    (name, first), *others = results.items()
    for other, result in others:
        cosine = float(np.vdot(first, result) / np.sqrt(np.vdot(first, first) * np.vdot(result, result)))
        if not cosine > 0.999:
            raise SystemExit(f"{name} and {other} differ: cosine {cosine}")


def _bit_linear(matrix: NDArray[np.int8], index: int) -> tuple[onnx.NodeProto, list[onnx.TensorProto]]:
    constants = {"norm": np.ones(matrix.shape[1], np.float32), "w": pack_ternary(matrix), "s": np.float32(1)}
    names = [f"{name}{index}" for name in constants]
    node = helper.make_node(
        "BitLinear", ["x", *names], [f"y{index}"], domain="ai.embernet", out_features=matrix.shape[0]
    )
    return node, _tensors(names, list(constants.values()))


def _mat_mul_n_bits(bits: int) -> Any:
    def make(matrix: NDArray[np.int8], index: int) -> tuple[onnx.NodeProto, list[onnx.TensorProto]]:
        rows, inputs = matrix.shape
        per_byte = 8 // bits
        fields = (matrix + (1 << (bits - 1))).astype(np.uint8).reshape(rows, inputs // BLOCK, -1, per_byte)
        packed = np.bitwise_or.reduce(fields << (bits * np.arange(per_byte, dtype=np.uint8)), axis=-1)
        scales = np.ones(rows * (inputs // BLOCK), np.float32)
        names = [f"w{index}", f"s{index}"]
        node = helper.make_node(
            "MatMulNBits",
            ["x", *names],
            [f"y{index}"],
            domain="com.microsoft",
            K=inputs,
            N=rows,
            bits=bits,
            block_size=BLOCK,
            accuracy_level=4,
        )
        return node, _tensors(names, [packed, scales])

    return make


def _tensors(names: list[str], arrays: list[Any]) -> list[onnx.TensorProto]:
    return [numpy_helper.from_array(np.asarray(a), name) for name, a in zip(names, arrays, strict=True)]


def main() -> None:
    parser = program_parser(__doc__, rounds=30)
    parser.add_argument("-t", "--threads", type=int, default=1, help="of each session")
    arguments = parser.parse_args()
    if library_in_use() is None:
        raise SystemExit("the native operators are not built")
    record = Record("matmulnbits")
    rng = np.random.default_rng(0)
    measurements = []
    for rows, inputs in SHAPES:
        matrices = WEIGHTS // (rows * inputs)
        codes = rng.integers(-1, 2, (matrices, rows, inputs), np.int8)
        operators = {name: Operator(name, codes, arguments.threads) for name in CONTESTANTS}
        del codes
        for count in ACTIVATIONS:
            x = rng.standard_normal((count, inputs), np.float32)
            x /= np.sqrt((x * x).mean(axis=-1, keepdims=True))  # so that normalising changes nothing
            bindings = {name: operator.bind(x) for name, operator in operators.items()}
            for name, operator in operators.items():
                operator.seconds(bindings[name])  # warms up
            require_same({name: binding.get_outputs()[-1].numpy() for name, binding in bindings.items()})
            times: dict[str, list[float]] = {name: [] for name in operators}
            for _, name in turns(list(operators), arguments.rounds):
                times[name].append(operators[name].seconds(bindings[name]) / matrices * 1e6)
            shape = {"rows": rows, "inputs": inputs, "activations": count}
            for name, microseconds in times.items():
                measurements.append({"contestant": name, **shape, "microseconds": microseconds})
                say(f"{rows} x {inputs}, {count} rows, {name}: {statistics.median(microseconds):.1f} us")
    record.save(arguments.output, threads=arguments.threads, isa=isa_in_use(), measurements=measurements)


if __name__ == "__main__":
    main()
