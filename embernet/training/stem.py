"""Batch norm in the stem while it is trained.

The family's stem has none. Between a convolution and its ReLU it makes print be learnt faster; afterwards it is a scale
and an offset of every channel, which the convolution takes over.
"""

import torch
from torch import Tensor, nn


class NormedConv(nn.Conv2d):
    """A convolution and the batch norm of what it gives."""

    norm: nn.BatchNorm2d

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.norm(super().forward(x))
        return y


def add_norms(stem: nn.Sequential) -> None:
    """Make every convolution of `stem` a NormedConv; its own parameters and their names stay."""
    for conv in stem:
        if isinstance(conv, nn.Conv2d):
            norm = nn.BatchNorm2d(conv.out_channels, momentum=0.05)
            conv.__class__ = NormedConv
            conv.add_module("norm", norm)


@torch.no_grad()
def fold_norms(stem: nn.Sequential) -> None:
    """Undo `add_norms`: the convolutions now give what they gave with the running mean and variance."""
    for conv in stem:
        if isinstance(conv, NormedConv):
            mean, variance = (conv.norm.get_buffer(f"running_{name}") for name in ("mean", "var"))
            scale = conv.norm.weight * torch.rsqrt(variance + conv.norm.eps)
            conv.weight.mul_(scale[:, None, None, None])
            conv.get_parameter("bias").sub_(mean).mul_(scale).add_(conv.norm.bias)
            del conv.norm
            conv.__class__ = nn.Conv2d  # type: ignore[assignment]
