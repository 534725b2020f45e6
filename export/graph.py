"""A small builder of ONNX graphs on `onnx_ir`: nodes are added in order and named by their place in the model."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray
from onnx_ir.passes.common import RemoveUnusedFunctionsPass

from embernet import __version__
from embernet.export.functions import OPSETS, operator_functions
from embernet.export.weights import WeightsWriter
from embernet.runtime.bundle import WEIGHTS_FILE

IR_VERSION = 10
# Smaller tensors stay in the graph file; ONNX Runtime needs shape constants there.
INLINE_BYTES = 1024


class GraphBuilder:
    """Builds one graph. Inputs of `op` are values, or arrays and numbers that become inline constants."""

    def __init__(self, name: str, weights: WeightsWriter) -> None:
        self._graph = ir.Graph([], [], nodes=[], name=name, opset_imports=OPSETS)
        self._weights = weights
        self._scope: list[str] = [""]
        self._names: dict[str, int] = {}

    @contextmanager
    def scope(self, name: str) -> Iterator[None]:
        """Nodes added inside are named `/outer/name/...`."""
        self._scope.append(name)
        yield
        self._scope.pop()

    def input(self, name: str, dtype: ir.DataType, shape: Sequence[int | str], default: Any = None) -> ir.Value:
        """Declare a graph input; one with a default may be left out by the caller."""
        value = ir.Value(name=name, type=ir.TensorType(dtype), shape=ir.Shape(shape))
        self._graph.inputs.append(value)
        if default is not None:
            value.const_value = ir.tensor(np.array(default, dtype.numpy()), name=name)
            self._graph.register_initializer(value)
        return value

    def output(self, value: ir.Value, name: str, dtype: ir.DataType, shape: Sequence[int | str]) -> None:
        """Declare `value` a graph output called `name`."""
        value.name = name
        value.type = ir.TensorType(dtype)
        value.shape = ir.Shape(shape)
        self._graph.outputs.append(value)

    def weight(self, name: str, array: NDArray, kind: str = "float") -> ir.Value:
        """A constant tensor, in `weights.bin` unless it is tiny."""
        if name in self._graph.initializers:
            return self._graph.initializers[name]
        tensor: ir.TensorProtocol
        if array.nbytes < INLINE_BYTES:
            tensor = ir.tensor(np.asarray(array, order="C"), name=name)
        else:
            stored = self._weights.add(name, array, kind)
            tensor = ir.ExternalTensor(
                WEIGHTS_FILE,
                stored.offset,
                stored.length,
                ir.DataType.from_numpy(array.dtype),
                shape=ir.Shape(array.shape),
                name=name,
            )
        value = ir.Value(name=name, type=ir.TensorType(tensor.dtype), shape=ir.Shape(array.shape), const_value=tensor)
        self._graph.register_initializer(value)
        return value

    def op(
        self,
        op_type: str,
        *inputs: "ir.Value | NDArray | int | float | Sequence[int] | None",
        domain: str = "",
        outputs: int = 1,
        **attributes: Any,
    ) -> Any:
        """Add a node; return its output, or a tuple of them if `outputs` is more than 1."""
        name = self._unique("/".join([*self._scope, op_type]))
        values = [
            v if v is None or isinstance(v, ir.Value) else self._constant(f"{name}/input_{i}", v)
            for i, v in enumerate(inputs)
        ]
        node = ir.node(op_type, values, attributes, domain=domain, num_outputs=outputs, name=name)
        for i, value in enumerate(node.outputs):
            value.name = f"{name}/output_{i}"
        self._graph.append(node)
        return node.outputs[0] if outputs == 1 else tuple(node.outputs)

    def _unique(self, name: str) -> str:
        count = self._names.get(name, 0)
        self._names[name] = count + 1
        return f"{name}_{count}" if count else name

    def _constant(self, name: str, value: Any) -> ir.Value:
        array = np.asarray(value)
        if array.dtype == np.float64:
            array = array.astype(np.float32)
        return self.weight(name, array)

    def model(self) -> ir.Model:
        """The finished graph as a model that carries the function bodies of the operators it uses."""
        model = ir.Model(
            self._graph,
            ir_version=IR_VERSION,
            producer_name="embernet",
            producer_version=__version__,
            functions=[ir.serde.deserialize_function(proto) for proto in operator_functions()],
        )
        RemoveUnusedFunctionsPass()(model)  # type: ignore[no-untyped-call]
        return model
