"""Muon: momentum whose update is made orthogonal (Jordan et al., 2024, https://kellerjordan.github.io/posts/muon).

For matrices only; a filter bank counts as a matrix of one row per filter. On small models it needs about half the
steps of AdamW. `torch.optim.Muon` computes in bfloat16, which most CPUs emulate; this computes in the type that it is
told, and all matrices of one shape at once.
"""

from collections import defaultdict
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn

_QUINTIC = (3.4445, -4.7750, 2.0315)  # pushes every singular value towards 1 in five steps


def orthogonalize(matrices: Tensor, steps: int = 5) -> Tensor:
    """matrices (n, rows, columns) -> the nearest (semi-)orthogonal ones, about, by Newton-Schulz iteration."""
    a, b, c = _QUINTIC
    is_tall = matrices.shape[1] > matrices.shape[2]
    x = matrices.mT if is_tall else matrices
    x = x / (x.flatten(1).norm(dim=1)[:, None, None] + 1e-7)
    for _ in range(steps):
        gram = x @ x.mT
        x = a * x + (b * gram + c * gram @ gram) @ x
    return x.mT if is_tall else x


class Muon(torch.optim.Optimizer):
    """The update's root mean square is 0.2 * lr, as Adam's is about, so that both can share a schedule."""

    def __init__(
        self,
        params: Iterable[nn.Parameter] | Iterable[dict[str, Any]],
        lr: float,
        momentum: float = 0.95,
        weight_decay: float = 0.05,
        dtype: torch.dtype = torch.float32,
    ) -> None:
        super().__init__(params, {"lr": lr, "momentum": momentum, "weight_decay": weight_decay})
        self._dtype = dtype

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]  # noqa: ARG002
        for group in self.param_groups:
            by_shape: dict[torch.Size, list[tuple[nn.Parameter, Tensor]]] = defaultdict(list)
            for parameter in group["params"]:
                if parameter.grad is not None:
                    update = self._nesterov(parameter, parameter.grad, group["momentum"])
                    by_shape[parameter.shape].append((parameter, update.flatten(1)))
            for items in by_shape.values():
                updates = orthogonalize(torch.stack([update for _, update in items]).to(self._dtype))
                scale = 0.2 * max(updates.shape[1:]) ** 0.5
                for (parameter, _), update in zip(items, updates, strict=True):
                    parameter.mul_(1 - group["lr"] * group["weight_decay"])
                    parameter.add_(update.view_as(parameter), alpha=-group["lr"] * scale)

    def _nesterov(self, parameter: nn.Parameter, gradient: Tensor, momentum: float) -> Tensor:
        state = self.state[parameter]
        if not state:
            state["average"] = torch.zeros_like(parameter)
        state["average"].lerp_(gradient, 1 - momentum)
        return gradient.lerp(state["average"], momentum)
