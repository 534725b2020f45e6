"""Optimisers of ternary networks.

The parameters are the FP32 master weights: BitLinear quantises them anew in every forward pass, and bf16 exists inside
autocast only, so that no second copy is kept.
"""

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor, nn

from embernet.parameters import is_ternary
from embernet.quantization import Quantizer
from embernet.training.config import TrainConfig

_BETAS = (0.9, 0.95)
_ABSMEAN_CLAMP = 3.0


class BitNetAdamW(torch.optim.AdamW):
    """AdamW that keeps the parameters of a group within +-group["clamp"] (0 = no limit).

    A latent weight far beyond the quantiser's step would need thousands of gradients to change its code again.
    """

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:  # type: ignore[override]
        loss = super().step(closure)
        for group in self.param_groups:
            if group["clamp"]:
                for parameter in group["params"]:
                    parameter.clamp_(-group["clamp"], group["clamp"])
        return loss


class ReferenceAdam(torch.optim.Optimizer):
    """Adam exactly as the published trainer writes it, for comparisons with it.

    Where it parts from AdamW: each tensor's gradient is clipped on its own, the second moment's correction is inside
    the root but the first moment's scales the decay too, and a tensor with a non-finite gradient is left alone.
        u = m / (sqrt(v) / sqrt(1 - b2^t) + eps) + decay * p        p -= lr / (1 - b1^t) * u
    """

    def __init__(self, params: Any, lr: float, weight_decay: float, clip: float, eps: float = 1e-8) -> None:
        super().__init__(params, {"lr": lr, "weight_decay": weight_decay, "clip": clip, "betas": _BETAS, "eps": eps})

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]  # noqa: ARG002
        for group in self.param_groups:
            for parameter in group["params"]:
                if parameter.grad is not None and bool(torch.isfinite(parameter.grad).all()):
                    self._update(parameter, parameter.grad, group)

    def _update(self, parameter: Tensor, gradient: Tensor, group: dict[str, Any]) -> None:
        state, (beta1, beta2) = self.state[parameter], group["betas"]
        if not state:
            state["step"] = torch.zeros(())
            state["exp_avg"] = torch.zeros_like(parameter)
            state["exp_avg_sq"] = torch.zeros_like(parameter)
        gradient = gradient * (group["clip"] / (gradient.norm() + 1e-6)).clamp(max=1.0)
        state["step"] += 1
        step = int(state["step"])
        state["exp_avg"].lerp_(gradient, 1 - beta1)
        state["exp_avg_sq"].mul_(beta2).addcmul_(gradient, gradient, value=1 - beta2)
        root = state["exp_avg_sq"].sqrt() / (1 - beta2**step) ** 0.5 + group["eps"]
        update = state["exp_avg"] / root + group["weight_decay"] * parameter
        parameter.sub_(update, alpha=group["lr"] / (1 - beta1**step))


def build_optimizer(
    parameters: Iterable[tuple[str, nn.Parameter]], quantizer: Quantizer, config: TrainConfig
) -> torch.optim.Optimizer:
    """The optimiser of a run over the named parameters that are trained."""
    named = dict(parameters)
    lr, decay = config.learning_rate, config.weight_decay
    if config.optimizer == "reference":
        return ReferenceAdam(named.values(), lr, decay, config.grad_clip)
    clamp = 0.0
    if config.optimizer == "bitnet":
        clamp = config.weight_clamp if config.weight_clamp is not None else 0.0
        if config.weight_clamp is None and quantizer.weights == "absmean":
            clamp = _ABSMEAN_CLAMP
    latent = [p for name, p in named.items() if is_ternary(name, named)]
    matrices = [p for name, p in named.items() if p.ndim >= 2 and not is_ternary(name, named)]
    vectors = [p for p in named.values() if p.ndim < 2]
    groups = [
        {"params": latent, "weight_decay": decay, "clamp": clamp},
        {"params": matrices, "weight_decay": decay, "clamp": 0.0},
        {"params": vectors, "weight_decay": 0.0, "clamp": 0.0},
    ]
    return BitNetAdamW([group for group in groups if group["params"]], lr=lr, betas=_BETAS)
