"""What is where, patch by patch: the dense supervision that teaches a vision encoder to see.

A caption says a dozen words about 64 patches, so learning to see from captions alone is slow. A drawing knows what
covers each of its patches, so linear heads on the encoder's features are trained to say it. They also say where the
patch is, or else a tower forgets it, and the attention that gathers its features has nothing to hold on to.

The heads are no part of the model and are dropped after training.
"""

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F

from embernet.data.synth.drawing import Attributes, Mark


def patch_labels(marks: Sequence[Mark], side: int, attributes: Attributes) -> NDArray[np.int16]:
    """What is on each patch: classes of name, color, size and role (4, side * side), as in `attributes`, 0 = none.

    A patch shows the mark whose box holds its centre, the nearest first.
    """
    labels = np.zeros((len(attributes), side, side), np.int16)
    centers = (np.arange(side) + 0.5) / side
    nearest = np.ones((side, side))
    for mark in marks:
        distance = np.maximum(
            np.abs(centers[None, :] - mark.x) / mark.half_width, np.abs(centers[:, None] - mark.y) / mark.half_height
        )
        # However small, a mark covers the patch that its centre lies in.
        row, column = min(side - 1, int(mark.y * side)), min(side - 1, int(mark.x * side))
        distance[row, column] = 0
        covered = distance < nearest
        nearest[covered] = distance[covered]
        classes = (mark.name, mark.color, mark.size, mark.role)
        for plane, names, name in zip(labels, attributes, classes, strict=True):
            plane[covered] = names.index(name)
    return labels.reshape(len(attributes), -1)


class PatchHead(nn.Module):
    """Reads the attributes and the place of the patches in a cell, side by side, from the token of that cell.

    With as many tokens as patches a cell is one patch; after a shuffle by f it is f x f of them.
    """

    def __init__(self, hidden_size: int, num_tokens: int, num_patches: int, attributes: Attributes) -> None:
        super().__init__()
        self.side = int(num_patches**0.5)
        self.cell = self.side // int(num_tokens**0.5)
        self.sizes = [*(len(names) for names in attributes), self.side, self.side]
        self.linear = nn.Linear(hidden_size, self.cell**2 * sum(self.sizes))

    def forward(self, tokens: Tensor, labels: Tensor) -> Tensor:
        """tokens (B, N, C), labels (B, 4, patches) -> mean cross-entropy of a patch, summed over what is asked."""
        B, side, cell = len(tokens), self.side, self.cell
        logits = self.linear(tokens).float().view(B, side // cell, side // cell, cell, cell, -1)
        logits = logits.transpose(2, 3).reshape(B * side * side, -1)
        places = torch.arange(side * side).expand(B, -1)
        classes = [*labels.unbind(dim=1), places // side, places % side]
        parts = logits.split(self.sizes, dim=-1)
        losses = [F.cross_entropy(part, c.flatten()) for part, c in zip(parts, classes, strict=True)]
        return torch.stack(losses).sum()
