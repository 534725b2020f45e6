"""Weight and activation quantisers with straight-through gradients.

    absmean:    s = max(mean|w|, 1e-5)   codes = clip(round(w / s), -1, 1)     ternary, BitNet b1.58
    sign_mean:  s = max(mean|w|, 1e-8)   codes = sign(w - mean(w))             binary, published EmberNet
    activation: s = L / max(max|x|, floor) per row   codes = clip(round(x * s), -L-1, L)   L = 127 or 7

Rounding is half to even. Both return codes (whole numbers, float32) and the step that turns codes into values, so that
a product of codes is exact in float32 and equals the integer kernels'. "Straight-through" means that the backward pass
takes codes * step for the unquantised value and the step for a constant.

`embernet.runtime.reference` is the definition; this repeats it for training.
"""

from typing import Any

import torch
from torch import Tensor

from embernet.runtime.reference import Activation


class _StraightThrough(torch.autograd.Function):
    """Forward: the codes. Backward: as if they were `values / step`."""

    @staticmethod
    def forward(ctx: Any, _values: Tensor, codes: Tensor, step: Tensor) -> Tensor:
        ctx.save_for_backward(step)
        return codes

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None]:
        (step,) = ctx.saved_tensors
        return gradient / step, None, None


_straight_through: Any = _StraightThrough.apply


def quantize_weights(weight: Tensor, quantizer: str) -> tuple[Tensor, Tensor]:
    """weight (N, K) -> codes (N, K) in {-1, 0, +1} and one step (); quantizer "absmean" or "sign_mean"."""
    with torch.no_grad():
        # Sums in float64: no summation order can move a weight across a threshold.
        mean_abs = weight.abs().mean(dtype=torch.float64).float()
        if quantizer == "sign_mean":
            step = mean_abs.clamp(min=1e-8)
            codes = torch.sign(weight - weight.mean(dtype=torch.float64).float())
        else:
            step = mean_abs.clamp(min=1e-5)
            codes = torch.round(weight / step).clamp_(-1, 1)
    return _straight_through(weight, codes, step), step


def quantize_activations(x: Tensor, activation: Activation) -> tuple[Tensor, Tensor]:
    """x (..., K) -> codes (..., K) and one step per row (..., 1)."""
    limit = float(2 ** (activation.bits - 1) - 1)
    x = x.clamp(-activation.clip, activation.clip)
    with torch.no_grad():
        largest = x.abs().amax(dim=-1, keepdim=True).clamp(min=activation.floor)
        scale = limit * largest.reciprocal()
        codes = torch.round(x * scale).clamp_(-limit - 1, limit)
        step = scale.reciprocal()
    return _straight_through(x, codes, step), step
