"""RMSNorm and BitLinear as EmberNet computes them.

    RMSNorm:    x = clip(x, +-100)   v = max(mean(x^2), eps)   y = weight * clip(x / sqrt(v + eps), +-10)
    BitLinear:  y = (codes(RMSNorm(x)) @ codes(weight).T) * activation_step * weight_step  (+ bias)

eps acts twice, as in the published code. Every BitLinear normalises its own input. The product is one of whole
numbers, exact in float32 up to K = 132,000, so torch, NumPy and the kernels agree to the last integer.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from embernet.layers.quantizers import quantize_activations, quantize_weights
from embernet.quantization import Quantizer
from embernet.runtime.reference import Norm


def rms_norm(x: Tensor, weight: Tensor, norm: Norm) -> Tensor:
    """x (..., K), weight (K,) -> (..., K), computed in float32."""
    dtype = x.dtype
    x = x.float().clamp(-norm.input_clip, norm.input_clip)
    # The mean is summed in float64 so that its order can never change an activation code.
    variance = x.square().mean(dim=-1, keepdim=True, dtype=torch.float64).float().clamp(min=norm.eps)
    x = (x * torch.rsqrt(variance + norm.eps)).clamp(-norm.output_clip, norm.output_clip)
    return (weight * x).to(dtype)


class RMSNorm(nn.Module):
    def __init__(self, size: int, eps: float) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(size))
        self.norm = Norm(eps)

    def forward(self, x: Tensor) -> Tensor:
        return rms_norm(x, self.weight, self.norm)


class BitLinear(nn.Module):
    """Linear layer with ternary weights and 8- or 4-bit activations (arXiv:2310.11453, arXiv:2402.17764).

    The parameters are the latent float weights (out_features, in_features) and the norm's weight (in_features,).
    """

    def __init__(
        self,
        in_features: int,
        out_features: int,
        quantizer: Quantizer,
        bias: bool = False,
        norm_eps: float = 1e-5,
    ) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(out_features, in_features))
        nn.init.xavier_uniform_(self.weight)
        self.bias = nn.Parameter(torch.zeros(out_features)) if bias else None
        self.norm = RMSNorm(in_features, norm_eps)
        self.quantizer = quantizer

    def forward(self, x: Tensor) -> Tensor:
        """x (..., in_features) -> (..., out_features)."""
        x_codes, x_step = quantize_activations(self.norm(x), self.quantizer.activation)
        w_codes, w_step = quantize_weights(self.weight, self.quantizer.weights)
        y = F.linear(x_codes, w_codes) * (x_step * w_step)
        return y if self.bias is None else y + self.bias
