"""The image side as ONNX Runtime alone would quantise and run it: what our int8 image side is compared with."""

from pathlib import Path
from typing import Any

_DOMAIN = "ai.embernet"


def quantize_vision(bundle: Path, target: Path, **options: Any) -> None:
    """Write the float32 image side of a bundle to `target` with `quantize_dynamic`; options are those of that function.

    Its attention becomes ONNX Runtime's own operator, which has the same inputs.
    """
    import onnx
    from onnxruntime.quantization import QuantType, quantize_dynamic

    model = onnx.load(bundle / "vision.onnx")
    for node in model.graph.node:
        if (node.domain, node.op_type) == (_DOMAIN, "MultiHeadAttention"):
            node.domain = "com.microsoft"
    # Behind an operator that it does not know it cannot tell types by itself.
    extra = {"DefaultTensorType": onnx.TensorProto.FLOAT}
    quantize_dynamic(model, target, weight_type=QuantType.QInt8, extra_options=extra, **options)
