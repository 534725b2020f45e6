"""Run exported models: NumPy and ONNX Runtime, never torch.

from embernet.runtime import load

model = load("spark")
print(model.caption("photo.jpg").text)
"""

import importlib
import os
from typing import TYPE_CHECKING, Any

# ONNX Runtime from 1.29 on reports its use to its makers, by way of a database in the home. Nobody asked for that.
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")

if TYPE_CHECKING:
    from embernet.runtime.answer import Answer as Answer
    from embernet.runtime.answer import EncodedImage as EncodedImage
    from embernet.runtime.answer import Routing as Routing
    from embernet.runtime.answer import Timings as Timings
    from embernet.runtime.answer import Usage as Usage
    from embernet.runtime.chat import Chat as Chat
    from embernet.runtime.model import Forward as Forward
    from embernet.runtime.model import Model as Model
    from embernet.runtime.model import load as load
    from embernet.runtime.stream import AnswerStream as AnswerStream

_HOMES = {
    "Answer": "answer",
    "AnswerStream": "stream",
    "Chat": "chat",
    "EncodedImage": "answer",
    "Forward": "model",
    "Model": "model",
    "Routing": "answer",
    "Timings": "answer",
    "Usage": "answer",
    "load": "model",
}
__all__ = ["Answer", "AnswerStream", "Chat", "EncodedImage", "Forward", "Model", "Routing", "Timings", "Usage", "load"]


def __getattr__(name: str) -> Any:
    """Import on first use: the operators' definitions and the format are used without the engine."""
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_HOMES[name]}"), name)
