"""Exact parameter counts of an EmberNet model, by part, from names and shapes."""

import math
import re
from collections.abc import Mapping

from embernet.models.embernet.config import EmberNetConfig
from embernet.parameters import ParameterCounts, is_ternary

# The first pattern that matches names the part.
_PARTS = [
    ("vision tower", r"^vision_encoder\.(stem|encoder)\."),
    ("compressor", r"^vision_encoder\.compressor\."),
    ("pooler", r"^vision_encoder\.pooler\."),
    ("projector", r"^vision_encoder\.projector\."),
    ("embedding", r"^decoder\.embed_tokens\."),
    ("attention", r"\.attention\."),
    ("router", r"\.moe\.router\."),
    ("experts", r"\.moe\.experts\."),
    ("shared expert", r"\.moe\.shared_expert\."),
    ("norms", r"norm\.weight$"),
    ("unused", r"^image_newline$"),
]


def count_parameters(config: EmberNetConfig, shapes: Mapping[str, tuple[int, ...]]) -> ParameterCounts:
    """Count the parameters of a model with these tensors."""
    parts: dict[str, int] = {}
    for name, shape in shapes.items():
        part = next(part for part, pattern in _PARTS if re.search(pattern, name))
        parts[part] = parts.get(part, 0) + math.prod(shape)
    total = sum(parts.values())
    idle = parts["experts"] * (config.num_experts - config.num_experts_per_tok) // config.num_experts
    ternary = sum(math.prod(shape) for name, shape in shapes.items() if is_ternary(name, shapes))
    return ParameterCounts(parts, total, ternary, total - idle)
