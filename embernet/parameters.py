"""Counting parameters: what every family reports, and which tensors are ternary."""

from collections.abc import Container
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class ParameterCounts:
    """Numbers of parameters. ternary: weights of BitLinear; active: those one token uses, vision included."""

    parts: dict[str, int]
    total: int
    ternary: int
    active: int

    def to_dict(self) -> dict[str, Any]:
        return {"total": self.total, "ternary": self.ternary, "active": self.active, "parts": self.parts}


def is_ternary(name: str, names: Container[str]) -> bool:
    """Whether a tensor is the weight of a BitLinear: it is the only layer with a norm of its own."""
    return name.endswith(".weight") and f"{name.removesuffix('.weight')}.norm.weight" in names
